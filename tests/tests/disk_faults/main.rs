//! Disks that stall, are slow or fail, under the real binary: the faults are made inside its log and page drivers (see
//! `engine::faults`). Only builds with debug assertions have that control; that others refuse it is tested as well.

mod clusters;
mod single;

use std::path::PathBuf;

use ringd_tests::server::{is_ringd, temporary_dir, Setup};
use tempfile::TempDir;

/// Names the control file to the server.
const VARIABLE: &str = "RINGD_DISK_FAULTS";
/// Builds with debug assertions take the control, and so does the server that they build.
const ARMED: bool = cfg!(debug_assertions);

/// What a server's disk is to do.
struct Control {
    dir: TempDir,
}

impl Control {
    /// `None` where there is nothing to control: another server, or a build that refuses.
    fn new() -> Option<Control> {
        if !is_ringd() || !ARMED {
            println!("skipped: the faults are made inside a ringd with debug assertions");
            return None;
        }
        Some(Control {
            dir: temporary_dir(),
        })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    fn over(&self, setup: Setup) -> Setup {
        setup.env(VARIABLE, self.path().to_str().expect("a UTF-8 path"))
    }

    /// From now on these rules.
    fn say(&self, rules: &str) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, rules).expect("a rule file");
        std::fs::rename(&new, self.path()).expect("a rule file");
    }

    /// The disk is sound again; what it stalled goes on.
    fn calm(&self) {
        self.say("");
    }
}
