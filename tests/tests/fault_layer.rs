//! The fault layer does what it says, shown on `dd`: otherwise the crash tests above it would prove nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use ringd_tests::server::temporary_dir;
use ringd_tests::shim::{Loss, Shim};

const BLOCK_BYTES: usize = 512;

/// Writes `blocks` blocks of zeros over the file under the layer; gives whether dd succeeded.
fn dd(shim: &Shim, file: &Path, blocks: usize, options: &str, lie: bool) -> bool {
    let mut command = Command::new("dd");
    command
        .arg("if=/dev/zero")
        .arg(format!("of={}", file.display()))
        .arg(format!("bs={BLOCK_BYTES}"))
        .arg(format!("count={blocks}"))
        .args(options.split_whitespace())
        .envs(shim.environment())
        .stderr(std::process::Stdio::null());
    if lie {
        command.env("RINGD_FAULT_LIE", "1");
    }
    command.status().expect("dd can be executed").success()
}

struct Place {
    dir: tempfile::TempDir,
    shim: Shim,
}

impl Place {
    fn new() -> Self {
        let dir = temporary_dir();
        let shim = Shim::new(dir.path());
        fs::write(dir.path().join("f"), vec![b'o'; 4 * BLOCK_BYTES]).expect("a file");
        Self { dir, shim }
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("f")
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.file()).expect("the file is there")
    }
}

#[test]
fn unflushed_writes_are_lost() {
    let place = Place::new();
    assert!(dd(&place.shim, &place.file(), 6, "conv=notrunc", false));
    assert_eq!(place.bytes().len(), 6 * BLOCK_BYTES);
    place.shim.power_cut(Loss::Everything);
    assert!(place.bytes() == vec![b'o'; 4 * BLOCK_BYTES]);
}

#[test]
fn flushed_writes_stay() {
    for options in [
        "conv=notrunc,fdatasync",
        "conv=notrunc,fsync",
        "conv=notrunc oflag=dsync",
    ] {
        let place = Place::new();
        assert!(dd(&place.shim, &place.file(), 6, options, false));
        place.shim.power_cut(Loss::Everything);
        assert!(place.bytes() == vec![0; 6 * BLOCK_BYTES], "{options}");
    }
}

#[test]
fn flushes_that_lie_are_lost() {
    for options in ["conv=notrunc,fdatasync", "conv=notrunc oflag=dsync"] {
        let place = Place::new();
        assert!(dd(&place.shim, &place.file(), 2, options, true));
        place.shim.power_cut(Loss::Everything);
        assert!(place.bytes() == vec![b'o'; 4 * BLOCK_BYTES], "{options}");
    }
}

#[test]
fn a_new_file_is_lost_without_a_flush_of_its_directory() {
    let place = Place::new();
    let new = place.dir.path().join("new");
    assert!(dd(&place.shim, &new, 2, "conv=fsync", false));
    assert!(new.exists());
    place.shim.power_cut(Loss::Everything);
    assert!(!new.exists());
}

#[test]
fn renames_and_removals_are_taken_back() {
    let place = Place::new();
    fs::write(place.dir.path().join("g"), b"second").expect("a file");
    let script = "mv f g && rm h";
    fs::write(place.dir.path().join("h"), b"third").expect("a file");
    let status = Command::new("sh")
        .args(["-c", script])
        .current_dir(place.dir.path())
        .envs(place.shim.environment())
        .status();
    assert!(status.expect("sh can be executed").success());
    assert!(!place.file().exists());
    place.shim.power_cut(Loss::Everything);
    let read = |name: &str| fs::read(place.dir.path().join(name)).expect("the file is back");
    assert!(read("f") == vec![b'o'; 4 * BLOCK_BYTES]);
    assert_eq!(read("g"), b"second");
    assert_eq!(read("h"), b"third");
}

#[test]
fn the_nth_flush_or_write_fails_as_told() {
    let place = Place::new();
    place.shim.control("flush fail 5 0 0 -");
    assert!(!dd(
        &place.shim,
        &place.file(),
        2,
        "conv=notrunc,fsync",
        false
    ));
    place.shim.control("write fail 28 3 0 /f");
    assert!(!dd(&place.shim, &place.file(), 6, "conv=notrunc", false));
    place.shim.control("space fail 28 0 0 -");
    assert!(dd(&place.shim, &place.file(), 4, "conv=notrunc", false));
    assert!(!dd(&place.shim, &place.file(), 6, "conv=notrunc", false));
    place.shim.calm();
    assert!(dd(&place.shim, &place.file(), 6, "conv=notrunc", false));
}
