//! The codecs against what real members sent each other, against each other, and against damage.

use super::*;
use proptest::prelude::*;
use proto::raftpb::{Entry, Message, MessageType};
use serde_json::Value;

fn captures() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/captures/peer.json");
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap()
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

fn id(text: &Value) -> u64 {
    u64::from_str_radix(text.as_str().unwrap(), 16).unwrap()
}

/// Everything that a stream holds, in pieces of this size.
fn frames(mut decoder: Decoder, bytes: &[u8], size: usize) -> Result<Vec<Frame>, FrameError> {
    let mut frames = Vec::new();
    for piece in bytes.chunks(size.max(1)) {
        decoder.receive(piece);
        while let Some(frame) = decoder.next()? {
            frames.push(frame);
        }
    }
    assert_eq!(decoder.held_bytes(), 0, "an incomplete frame is left");
    Ok(frames)
}

fn encode(encoder: &mut Encoder, frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend_from_slice(match frame {
            Frame::Heartbeat => encoder.heartbeat(),
            Frame::Message(message) => encoder.message(message),
        });
    }
    bytes
}

#[test]
fn whole_streams_of_etcd_are_read_and_written_to_the_byte() {
    for session in captures()["sessions"].as_array().unwrap() {
        let kind = Kind::from_name(session["kind"].as_str().unwrap()).unwrap();
        let (from, to) = (id(&session["sender"]), id(&session["receiver"]));
        let bytes = hex(&session["body_hex"]);
        // A recording may end within a frame.
        let mut decoder = Decoder::new(kind, false, from, to);
        decoder.receive(&bytes);
        let mut whole = Vec::new();
        while let Some(frame) = decoder.next().unwrap() {
            whole.push(frame);
        }
        let bytes = &bytes[..bytes.len() - decoder.held_bytes()];
        assert_eq!(whole.len() as u64, session["frames"].as_u64().unwrap());
        for size in [1, 7, 64, 1 << 20] {
            let decoder = Decoder::new(kind, false, from, to);
            assert_eq!(frames(decoder, bytes, size).as_ref(), Ok(&whole));
        }
        for frame in &whole {
            let Frame::Message(message) = frame else {
                continue;
            };
            assert_eq!(message.to(), to);
            if kind == Kind::Append {
                assert_eq!(
                    (message.r#type(), message.from()),
                    (MessageType::MsgApp, from)
                );
            }
        }
        let again = encode(&mut Encoder::new(kind, false), &whole);
        assert!(again == bytes, "a {} stream differs", kind.name());
    }
}

#[test]
fn every_kind_of_message_of_etcd() {
    let captures = captures();
    let mut seen = 0;
    for (name, recorded) in captures["message_frames"].as_object().unwrap() {
        for bytes in recorded.as_array().unwrap() {
            let bytes = hex(bytes);
            let found = frames(Decoder::new(Kind::Message, false, 1, 2), &bytes, 5).unwrap();
            let expected = match &found[..] {
                [Frame::Heartbeat] => "link-heartbeat".to_owned(),
                [Frame::Message(message)] => format!("{:?}", message.r#type()),
                other => panic!("{name}: {other:?}"),
            };
            assert_eq!(name.split(' ').next(), Some(expected.as_str()));
            let again = encode(&mut Encoder::new(Kind::Message, false), &found);
            assert_eq!(again, bytes, "{name}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn appends_that_continue_say_only_what_is_new() {
    let entry = |term, index| Entry {
        r#type: Some(0),
        term: Some(term),
        index: Some(index),
        data: Some("x".into()),
    };
    let append = |term, log_term, index, entries: Vec<Entry>, commit| Message {
        r#type: Some(MessageType::MsgApp as i32),
        from: Some(1),
        to: Some(2),
        term: Some(term),
        log_term: Some(log_term),
        index: Some(index),
        entries,
        commit: Some(commit),
        ..Default::default()
    };
    let mut encoder = Encoder::new(Kind::Append, false);
    let mut first_bytes = |message: &Message| encoder.message(message)[0];
    // A new connection continues nothing; then the message's own term is what is continued.
    assert_eq!(first_bytes(&append(3, 2, 7, vec![entry(3, 8)], 7)), 2);
    assert_eq!(first_bytes(&append(3, 3, 8, vec![entry(3, 9)], 8)), 1);
    assert_eq!(first_bytes(&append(3, 3, 9, vec![], 9)), 1);
    assert_eq!(first_bytes(&append(3, 3, 8, vec![], 9)), 2, "a gap back");
    assert_eq!(first_bytes(&append(3, 3, 8, vec![], 9)), 1);
    assert_eq!(first_bytes(&append(4, 3, 8, vec![], 9)), 2, "a new term");
    assert_eq!(
        first_bytes(&append(4, 3, 8, vec![], 9)),
        2,
        "its entry is of an older term"
    );
}

#[test]
fn damage_between_ringd_members_is_seen() {
    let message = Message {
        r#type: Some(MessageType::MsgApp as i32),
        to: Some(2),
        from: Some(1),
        term: Some(5),
        index: Some(7),
        log_term: Some(5),
        ..Default::default()
    };
    let frame = Frame::Message(Box::new(message));
    for kind in Kind::ALL {
        let sent = [frame.clone(), frame.clone(), Frame::Heartbeat];
        let bytes = encode(&mut Encoder::new(kind, true), &sent);
        let decoder = || Decoder::new(kind, true, 1, 2);
        assert_eq!(
            frames(decoder(), &bytes, 3).map(|frames| frames.len()),
            Ok(3)
        );
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let mut decoder = decoder();
                decoder.receive(&damaged);
                // At once: who waits for more, as a damaged length asks for, hears nothing meanwhile.
                let error = loop {
                    match decoder.next() {
                        Ok(Some(_)) => {}
                        Ok(None) => break None,
                        Err(error) => break Some(error),
                    }
                };
                let expected = Some(FrameError::Checksum);
                assert_eq!(error, expected, "bit {bit} of byte {at}");
            }
        }
    }
}

#[test]
fn frames_are_bounded() {
    let refused = |kind, bytes: &[u8]| {
        let mut decoder = Decoder::new(kind, false, 1, 2);
        decoder.receive(bytes);
        decoder.next()
    };
    let long = (FRAME_BYTES_MAX as u64 + 1).to_be_bytes();
    assert_eq!(refused(Kind::Message, &long), Err(FrameError::TooLarge));
    let whole = [&[2][..], &long].concat();
    assert_eq!(refused(Kind::Append, &whole), Err(FrameError::TooLarge));
    let count = u64::MAX.to_be_bytes();
    let entry = [&[1][..], &count, &long].concat();
    assert_eq!(refused(Kind::Append, &entry), Err(FrameError::TooLarge));
    assert_eq!(refused(Kind::Append, &[3]), Err(FrameError::UnknownType));
    let no_message = [&1u64.to_be_bytes()[..], &[0xff]].concat();
    assert_eq!(
        refused(Kind::Message, &no_message),
        Err(FrameError::Malformed)
    );
    // A count alone asks for no memory.
    assert_eq!(
        refused(Kind::Append, &[&[1][..], &count].concat()),
        Ok(None)
    );
}

#[test]
fn pieces_of_a_snapshot() {
    let message = Message {
        r#type: Some(MessageType::MsgSnap as i32),
        ..Default::default()
    };
    let body: bytes::Bytes = encode_piece(&message, b"abc").into();
    assert_eq!(decode_piece(&body), Ok((message, "abc".into())));
    for length in 0..10 {
        assert_eq!(
            decode_piece(&body.slice(..length.min(9))),
            Err(FrameError::Malformed)
        );
    }
    assert!(decode_piece(&vec![0xff; 20].into()).is_err());
}

fn any_message() -> impl Strategy<Value = Message> {
    let entry =
        (any::<u64>(), any::<u64>(), any::<Option<Vec<u8>>>()).prop_map(|(term, index, data)| {
            Entry {
                r#type: Some(0),
                term: Some(term % 5),
                index: Some(index % 100),
                data: data.map(Into::into),
            }
        });
    (
        0..4u64,
        0..4u64,
        0..20u64,
        prop::collection::vec(entry, 0..4),
        any::<u64>(),
    )
        .prop_map(|(term, log_term, index, entries, commit)| Message {
            r#type: Some(MessageType::MsgApp as i32),
            from: Some(1),
            to: Some(2),
            term: Some(term),
            log_term: Some(log_term),
            index: Some(index),
            entries,
            commit: Some(commit),
            ..Default::default()
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        messages in prop::collection::vec(prop::option::of(any_message()), 0..8),
        checksums: bool,
        size in 1usize..50,
    ) {
        let sent: Vec<Frame> = messages
            .into_iter()
            .map(|message| message.map_or(Frame::Heartbeat, |m| Frame::Message(Box::new(m))))
            .collect();
        for kind in Kind::ALL {
            let bytes = encode(&mut Encoder::new(kind, checksums), &sent);
            let found = frames(Decoder::new(kind, checksums, 1, 2), &bytes, size);
            prop_assert_eq!(found.as_ref(), Ok(&sent));
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>) {
        crate::fuzzing::peer_msg(&bytes);
    }
}
