//! Events that a scan has read: each encoded once, whoever wants it.

use bytes::Bytes;

use super::wire::Payload;

/// Place of an encoded event: chunk, and bytes within it.
#[derive(Clone, Copy, Debug)]
struct Place {
    chunk: u32,
    start: usize,
    end: usize,
}

/// Encoded events in the order of reading. A prefix can be frozen into a chunk, whose bytes are then shared by all who want a
/// stretch of it.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    places: Vec<Place>,
    chunks: Vec<Bytes>,
    growing: Vec<u8>,
    frozen_bytes: usize,
    copied_bytes: usize,
}

impl Gathered {
    pub(super) fn len_bytes(&self) -> usize {
        self.frozen_bytes + self.growing.len()
    }

    /// What was copied for responses that could not share.
    pub(super) fn copied_bytes(&self) -> usize {
        self.copied_bytes
    }

    /// Appends what `encode` writes, and returns the number of the event.
    pub(super) fn add<E>(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<u32, E> {
        let start = self.growing.len();
        if let Err(error) = encode(&mut self.growing) {
            self.growing.truncate(start);
            return Err(error);
        }
        self.places.push(Place {
            chunk: self.chunks.len() as u32,
            start,
            end: self.growing.len(),
        });
        Ok((self.places.len() - 1) as u32)
    }

    pub(super) fn freeze(&mut self) {
        if !self.growing.is_empty() {
            self.frozen_bytes += self.growing.len();
            self.chunks
                .push(Bytes::from(std::mem::take(&mut self.growing)));
        }
    }

    /// The given events as one payload; all of them must be frozen. `None` if there are none.
    pub(super) fn payload(&mut self, events: &[u32]) -> Option<Payload> {
        debug_assert!(self.growing.is_empty());
        let places = || events.iter().map(|&event| self.places[event as usize]);
        let (first, last) = (places().next()?, places().next_back()?);
        let mut ends = Vec::new();
        if events.len() > 1 {
            ends.extend(places().scan(0, |end, place| {
                *end += place.end - place.start;
                Some(*end)
            }));
        }
        let len: usize = places().map(|place| place.end - place.start).sum();
        if first.chunk == last.chunk && last.end - first.start == len {
            let bytes = self.chunks[first.chunk as usize].slice(first.start..last.end);
            return Some(Payload { bytes, ends });
        }
        let mut copy = Vec::with_capacity(len);
        for place in places() {
            copy.extend_from_slice(&self.chunks[place.chunk as usize][place.start..place.end]);
        }
        self.copied_bytes += len;
        let bytes = Bytes::from(copy);
        Some(Payload { bytes, ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(gathered: &mut Gathered, text: &str) -> u32 {
        let added: Result<u32, ()> = gathered.add(|out| {
            out.extend_from_slice(text.as_bytes());
            Ok(())
        });
        added.unwrap()
    }

    #[test]
    fn stretches_are_shared_and_the_rest_is_copied() {
        let mut gathered = Gathered::default();
        let a = add(&mut gathered, "aa");
        let b = add(&mut gathered, "b");
        assert_eq!(
            gathered.add(|out| {
                out.push(0);
                Err(())
            }),
            Err(())
        );
        let c = add(&mut gathered, "ccc");
        gathered.freeze();
        let d = add(&mut gathered, "d");
        gathered.freeze();
        gathered.freeze();
        let all = gathered.payload(&[a, b, c]).unwrap();
        assert_eq!(
            (&all.bytes[..], &all.ends[..]),
            (&b"aabccc"[..], &[2, 3, 6][..])
        );
        let middle = gathered.payload(&[b]).unwrap();
        assert_eq!((&middle.bytes[..], middle.events()), (&b"b"[..], 1));
        assert_eq!(gathered.copied_bytes(), 0);
        let gaps = gathered.payload(&[a, c, d]).unwrap();
        assert_eq!(
            (&gaps.bytes[..], &gaps.ends[..]),
            (&b"aacccd"[..], &[2, 5, 6][..])
        );
        assert_eq!(gathered.copied_bytes(), 6);
        assert!(gathered.payload(&[]).is_none());
        assert_eq!(gathered.len_bytes(), 7);
    }
}
