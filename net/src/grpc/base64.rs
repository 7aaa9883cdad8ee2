//! Base64 of `-bin` metadata: the standard alphabet, padded or not.

/// Decodes; the error is the offset of the first byte that does not belong there.
pub(super) fn decode(text: &[u8]) -> Result<Vec<u8>, usize> {
    let unpadded = match text {
        [body @ .., b'=', b'='] if text.len() % 4 == 0 => body,
        [body @ .., b'='] if text.len() % 4 == 0 => body,
        body => body,
    };
    let mut out = Vec::with_capacity(unpadded.len() * 3 / 4);
    let mut window = 0u32;
    let mut held = 0;
    for (at, &byte) in unpadded.iter().enumerate() {
        window = window << 6 | value(byte).ok_or(at)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((window >> held) as u8);
        }
    }
    // A single digit in the last group carries no whole byte.
    if unpadded.len() % 4 == 1 {
        return Err(unpadded.len() - 1);
    }
    Ok(out)
}

fn value(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}
