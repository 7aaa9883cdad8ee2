//! A DNS question and its answer as bytes (RFC 1035, RFC 2782): as much of it as an SRV look-up needs.

const HEADER_BYTES: usize = 12;
const LABEL_BYTES_MAX: usize = 63;
/// With its length bytes and the root's.
const NAME_BYTES_MAX: usize = 255;
/// Pointers followed within one name; more are a loop.
const POINTERS_MAX: usize = 64;

const RESPONSE: u16 = 0x8000;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const CODE: u16 = 0x000f;

const TYPE_SRV: u16 = 33;
const CLASS_IN: u16 = 1;

/// A record that names a place of a service. Ordered by priority first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub priority: u16,
    /// With its trailing dot.
    pub target: String,
    pub port: u16,
}

/// An answer to the question that was asked.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub truncated: bool,
    pub code: u8,
    /// Empty where the answer is truncated.
    pub places: Vec<Place>,
}

/// Why bytes are no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Of another question: it may still be on its way.
    Foreign,
    Malformed,
}

/// The question for the SRV records of a name; `None` if that cannot be a name.
pub fn question(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + name.len() + 6);
    for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            return None;
        }
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    if bytes.len() - HEADER_BYTES > NAME_BYTES_MAX {
        return None;
    }
    bytes.extend_from_slice(&TYPE_SRV.to_be_bytes());
    bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
    Some(bytes)
}

/// Reads what came back for [`question`].
pub fn answer(bytes: &[u8], id: u16, name: &str) -> Result<Answer, NoAnswer> {
    let mut reader = Reader { bytes, at: 0 };
    let header = reader.header().ok_or(NoAnswer::Foreign)?;
    let [its_id, flags, questions, answers, _, _] = header;
    if its_id != id || flags & RESPONSE == 0 {
        return Err(NoAnswer::Foreign);
    }
    let read = |reader: &mut Reader<'_>| -> Option<Result<Vec<Place>, NoAnswer>> {
        for _ in 0..questions {
            let asked = reader.name()?;
            let (kind, class) = (reader.u16()?, reader.u16()?);
            let same = asked.trim_end_matches('.').eq_ignore_ascii_case(name);
            if !same || kind != TYPE_SRV || class != CLASS_IN {
                return Some(Err(NoAnswer::Foreign));
            }
        }
        let mut places = Vec::new();
        if flags & TRUNCATED == 0 {
            for _ in 0..answers {
                places.extend(reader.record()?);
            }
        }
        Some(Ok(places))
    };
    let mut places = read(&mut reader).ok_or(NoAnswer::Malformed)??;
    places.sort();
    Ok(Answer {
        truncated: flags & TRUNCATED != 0,
        code: (flags & CODE) as u8,
        places,
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn header(&mut self) -> Option<[u16; 6]> {
        let mut words = [0; 6];
        for word in &mut words {
            *word = self.u16()?;
        }
        Some(words)
    }

    fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    /// A resource record; only those of SRV mean anything here.
    fn record(&mut self) -> Option<Option<Place>> {
        self.name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        self.skip(4)?; // time to live
        let length = usize::from(self.u16()?);
        let end = self.at.checked_add(length)?;
        if end > self.bytes.len() {
            return None;
        }
        let mut place = None;
        if kind == TYPE_SRV && class == CLASS_IN {
            let priority = self.u16()?;
            self.skip(2)?; // weight
            place = Some(Place {
                priority,
                port: self.u16()?,
                target: self.name()?,
            });
            if self.at != end {
                return None;
            }
        }
        self.at = end;
        Some(place)
    }

    /// A name with its trailing dot. Its rest may stand elsewhere in the message.
    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut after = None;
        let mut pointers = 0;
        loop {
            let length = self.u8()?;
            match length >> 6 {
                0b00 if length == 0 => break,
                0b00 => {
                    let end = self.at + usize::from(length);
                    let label = self.bytes.get(self.at..end)?;
                    let printable = |byte: &u8| byte.is_ascii_graphic() && *byte != b'.';
                    if !label.iter().all(printable) || name.len() + label.len() >= NAME_BYTES_MAX {
                        return None;
                    }
                    name.extend(label.iter().map(|byte| char::from(*byte)));
                    name.push('.');
                    self.at = end;
                }
                0b11 => {
                    pointers += 1;
                    if pointers > POINTERS_MAX {
                        return None;
                    }
                    let to = usize::from(length & 0x3f) << 8 | usize::from(self.u8()?);
                    after.get_or_insert(self.at);
                    self.at = to;
                }
                _ => return None,
            }
        }
        self.at = after.unwrap_or(self.at);
        if name.is_empty() {
            name.push('.');
        }
        Some(name)
    }
}
