//! Writing a trace while the process runs.

use super::{codec::Writer, effect, input, Header, DATA_DIR, MAGIC, TRACE_FILE, VARIABLE, WAL_DIR};
use crate::{
    config::Config,
    member::{Effect, Input},
};
use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

pub struct Recorder {
    path: PathBuf,
    file: File,
    /// Inputs that were not settled yet.
    waiting: Writer,
    failure: Option<String>,
    failed: bool,
}

impl Recorder {
    /// Makes the directory, copies the files that the member will be opened on, and begins the trace.
    pub fn begin(directory: &Path, config: &Config, page_file: &Path) -> io::Result<Recorder> {
        fs::create_dir(directory)?;
        let member = directory.join(DATA_DIR).join("member");
        fs::create_dir_all(&member)?;
        if let (true, Some(name)) = (page_file.exists(), page_file.file_name()) {
            fs::copy(page_file, member.join(name))?;
        }
        let log = match &config.wal_dir {
            Some(_) => directory.join(WAL_DIR),
            None => member.join("wal"),
        };
        fs::create_dir(&log)?;
        for file in fs::read_dir(config.wal_path())? {
            let file = file?;
            fs::copy(file.path(), log.join(file.file_name()))?;
        }
        let path = directory.join(TRACE_FILE);
        let mut file = File::create_new(&path)?;
        file.write_all(MAGIC)?;
        Ok(Recorder {
            path,
            file,
            waiting: Writer::default(),
            failure: None,
            failed: false,
        })
    }

    pub fn header(&mut self, header: &Header) -> Result<(), Box<dyn std::error::Error>> {
        self.record(b'H', &serde_json::to_vec(header)?);
        self.write();
        match self.take_failure() {
            None => Ok(()),
            Some(why) => Err(why.into()),
        }
    }

    pub fn input(&mut self, input: &Input, now_ns: u64) {
        let mut payload = Writer::default();
        payload.u64(now_ns);
        input::encode_into(input, &mut payload);
        self.record(b'I', &payload.0);
    }

    /// Written before any of the effects is carried out, so that the trace of a process that is killed has all that it did.
    pub fn settled(&mut self, effects: &[Effect], now_ns: u64) {
        let mut payload = Writer::default();
        payload.u64(now_ns);
        effect::encode_marks(&effect::effects(effects), &mut payload);
        self.record(b'S', &payload.0);
        self.write();
    }

    /// Why nothing is recorded any more, once.
    pub fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    fn record(&mut self, kind: u8, payload: &[u8]) {
        self.waiting.u8(kind);
        self.waiting.bytes(payload);
    }

    fn write(&mut self) {
        if !self.failed {
            if let Err(error) = self.file.write_all(&self.waiting.0) {
                self.failed = true;
                let path = self.path.display();
                self.failure = Some(format!(
                    "{VARIABLE}: {path} cannot be written, the trace ends here: {error}"
                ));
            }
        }
        self.waiting.0.clear();
    }
}
