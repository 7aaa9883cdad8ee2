//! Numbers, byte strings and messages of a trace.

use sha1::{Digest as _, Sha1};
use std::{fmt, io};

/// What is wrong with a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the trace is malformed: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

const SHORT: Malformed = Malformed("it ends early");

#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn flag(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub fn message(&mut self, message: &impl prost::Message) {
        self.bytes(&message.encode_to_vec());
    }

    /// Success, or an error's number and text.
    pub fn outcome<T>(&mut self, result: &io::Result<T>) {
        match result {
            Ok(_) => self.u8(0),
            Err(error) => {
                self.u8(1);
                self.u32(error.raw_os_error().unwrap_or(0) as u32);
                self.text(&error.to_string());
            }
        }
    }
}

pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub fn flag(&mut self) -> Result<bool, Malformed> {
        Ok(self.u8()? != 0)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| SHORT)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| SHORT)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let bytes = self.u32()?;
        self.take(bytes as usize)
    }

    pub fn text(&mut self) -> Result<String, Malformed> {
        let bytes = self.bytes()?.to_vec();
        String::from_utf8(bytes).map_err(|_| Malformed("a text is not UTF-8"))
    }

    pub fn message<M: prost::Message + Default>(&mut self) -> Result<M, Malformed> {
        M::decode(self.bytes()?).map_err(|_| Malformed("a message does not decode"))
    }

    pub fn outcome(&mut self) -> Result<io::Result<()>, Malformed> {
        if !self.flag()? {
            return Ok(Ok(()));
        }
        let (number, text) = (self.u32()?, self.text()?);
        Ok(Err(match number {
            0 => io::Error::other(text),
            number => io::Error::from_raw_os_error(number as i32),
        }))
    }
}

pub fn digest(bytes: &[u8]) -> u64 {
    let hash = Sha1::digest(bytes);
    let first = hash.iter().take(8);
    first.fold(0, |digest, byte| digest << 8 | u64::from(*byte))
}

/// Kind and payload of the first record, and what is behind it. None if there is no whole one.
pub fn next_record(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let mut reader = Reader(bytes);
    let kind = reader.u8().ok()?;
    let payload = reader.bytes().ok()?;
    Some((kind, payload, reader.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_short_input_is_refused() {
        let mut writer = Writer::default();
        writer.u32(7);
        writer.u64(u64::MAX);
        writer.text("words");
        writer.outcome::<()>(&Err(io::Error::from_raw_os_error(5)));
        writer.outcome::<()>(&Err(io::Error::other("no")));
        writer.outcome(&Ok(()));
        let mut reader = Reader(&writer.0);
        assert_eq!(reader.u32(), Ok(7));
        assert_eq!(reader.u64(), Ok(u64::MAX));
        assert_eq!(reader.text().as_deref(), Ok("words"));
        let failed = |reader: &mut Reader| reader.outcome().unwrap().unwrap_err();
        assert_eq!(failed(&mut reader).raw_os_error(), Some(5));
        assert_eq!(failed(&mut reader).to_string(), "no");
        assert!(reader.outcome().unwrap().is_ok() && reader.0.is_empty());
        for end in 0..writer.0.len() {
            let mut reader = Reader(&writer.0[..end]);
            let mut read = || -> Result<(), Malformed> {
                reader.u32()?;
                reader.u64()?;
                reader.text()?;
                for _ in 0..3 {
                    let _ = reader.outcome()?;
                }
                Ok(())
            };
            assert_eq!(read(), Err(SHORT), "{end}");
        }
    }

    #[test]
    fn an_unfinished_record_is_no_record() {
        let mut writer = Writer::default();
        writer.u8(b'I');
        writer.bytes(b"payload");
        let whole = writer.0;
        assert_eq!(next_record(&whole), Some((b'I', &b"payload"[..], &b""[..])));
        for end in 0..whole.len() {
            assert_eq!(next_record(&whole[..end]), None, "{end}");
        }
    }
}
