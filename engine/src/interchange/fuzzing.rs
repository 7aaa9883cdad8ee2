//! What the fuzz target calls, and an ordinary test replays.

use super::bbolt::read::{Database, Walk};
use super::bbolt::write::{Writer, PAGE_BYTES};
use std::collections::BTreeMap;

/// A sound database with changes, or anything at all: what is read is refused or ends, and never comes to more than the file.
///
/// The input is a list of changes of six bytes: page (2), offset (2), value, more. One of odd length is a file instead.
pub fn bbolt_read(data: &[u8]) {
    let mut image = sound_database();
    if data.len() % 2 == 1 {
        image = data[1..].to_vec();
    } else {
        for change in data.chunks_exact(6) {
            let page = usize::from(u16::from_le_bytes([change[0], change[1]]));
            let at = usize::from(u16::from_le_bytes([change[2], change[3]]));
            // The meta pages have checksums: changes of them lead nowhere, mostly.
            let page = 2 + page % (image.len() / PAGE_BYTES - 2);
            let byte = &mut image[page * PAGE_BYTES + at % PAGE_BYTES];
            *byte = byte.wrapping_add(change[4]);
        }
    }
    let given = read_all(&image).unwrap_or_else(|given| given);
    assert!(
        given <= image.len(),
        "{given} bytes of a file of {}",
        image.len()
    );
}

/// Bytes of all entries; in the error, those before it. No byte of the file may be part of two entries.
fn read_all(image: &[u8]) -> Result<usize, usize> {
    let mut given = 0;
    let mut places = BTreeMap::new();
    let mut database = Database::open(image).map_err(|_| given)?;
    for bucket in database.buckets().map_err(|_| given)? {
        let mut walk = Walk::new(&bucket);
        let mut last: Option<Vec<u8>> = None;
        while let Some(entry) = walk.next(&mut database).map_err(|_| given)? {
            let bytes = entry.key.len() + entry.value.len();
            let end = entry.offset + bytes as u64;
            let before = places.range(..end).next_back();
            assert!(
                before.is_none_or(|(_, before)| *before <= entry.offset),
                "two entries share bytes"
            );
            places.insert(entry.offset, end);
            given += bytes;
            assert!(given <= image.len(), "more bytes than the file has");
            assert!(last.as_deref() < Some(entry.key), "not ascending");
            last = Some(entry.key.to_vec());
        }
    }
    Ok(given)
}

fn put_sound(writer: &mut Writer) {
    for (bucket, entries) in [("a", 0), ("b", 3), ("c", 900), ("d", 40)] {
        for n in 0..entries {
            let key = format!("{bucket}/{n:05}");
            let value = match bucket {
                "d" if n % 20 == 0 => vec![n as u8; 9000],
                _ => vec![n as u8; n % 60],
            };
            writer.put(key.as_bytes(), &value);
        }
        writer.end_bucket(bucket);
    }
}

/// A database of a few buckets: empty, of one page, of a branch, and with long values.
fn sound_database() -> Vec<u8> {
    let mut measuring = Writer::measuring();
    put_sound(&mut measuring);
    let layout = measuring.finish();
    let mut writer = Writer::writing(layout);
    put_sound(&mut writer);
    writer.finish();
    writer.take_output()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_inputs_are_met_without_harm() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/bbolt_read");
        let inputs = std::fs::read_dir(corpus).expect("the corpus");
        let inputs: Vec<_> = inputs.map(|file| file.expect("a file").path()).collect();
        assert!(!inputs.is_empty());
        for input in inputs {
            println!("{}", input.display());
            bbolt_read(&std::fs::read(input).expect("an input"));
        }
    }

    #[test]
    fn every_cut_and_changed_byte_is_met_without_harm() {
        let image = sound_database();
        assert!(read_all(&image).is_ok());
        for cut in (0..image.len()).step_by(509) {
            let _ = read_all(&image[..cut]);
        }
        let mut changed = image.clone();
        for at in (0..image.len()).step_by(7) {
            for bit in [0, 3, 7] {
                changed[at] ^= 1 << bit;
                let _ = read_all(&changed);
                changed[at] = image[at];
            }
        }
    }
}
