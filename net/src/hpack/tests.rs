//! Rows H of the hardening checklist, and the examples of RFC 7541 appendix C.

use proptest::prelude::*;

use super::*;
use crate::limits;

type Pairs = Vec<(String, String)>;
/// Name, table size, header lists, their blocks, whether these are Huffman coded.
type Sequence = (
    &'static str,
    usize,
    [&'static [(&'static str, &'static str)]; 3],
    [&'static str; 3],
    bool,
);

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).unwrap() as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<FieldList, DecodeError> {
    let mut list = FieldList::new();
    decoder.decode(block, &mut list).map(|()| list)
}

fn pairs(list: &FieldList) -> Pairs {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    list.iter()
        .map(|field| (text(field.name), text(field.value)))
        .collect()
}

fn owned(fields: &[(&str, &str)]) -> Pairs {
    fields
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

fn error(block: &[u8]) -> DecodeError {
    decode(&mut Decoder::new(4_096), block).expect_err("must be refused")
}

const REQUESTS: [&[(&str, &str)]; 3] = [
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ],
];

const COOKIE: &str = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
const RESPONSES: [&[(&str, &str)]; 3] = [
    &[
        (":status", "302"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ],
    &[
        (":status", "307"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ],
    &[
        (":status", "200"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
        ("location", "https://www.example.com"),
        ("content-encoding", "gzip"),
        ("set-cookie", COOKIE),
    ],
];

#[test]
fn rfc_appendix_c1_integers() {
    for (value, prefix_bits, bytes) in [(10, 5, "0a"), (1_337, 5, "1f9a0a"), (42, 8, "2a")] {
        let mut out = Vec::new();
        integer::encode(value, prefix_bits, 0, &mut out);
        assert_eq!(out, hex(bytes));
        assert_eq!(integer::decode(&out, &mut 0, prefix_bits), Ok(value as u32));
    }
}

#[test]
fn rfc_appendix_c2_representations() {
    let examples = [
        (
            "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
            "custom-key",
            "custom-header",
            Indexing::Add,
            1,
        ),
        (
            "040c2f73616d706c652f70617468",
            ":path",
            "/sample/path",
            Indexing::Without,
            0,
        ),
        (
            "100870617373776f726406736563726574",
            "password",
            "secret",
            Indexing::Never,
            0,
        ),
        ("82", ":method", "GET", Indexing::Add, 0),
    ];
    for (block, name, value, indexing, entries) in examples {
        let mut decoder = Decoder::new(4_096);
        let list = decode(&mut decoder, &hex(block)).unwrap();
        let field = Field {
            name: name.as_bytes(),
            value: value.as_bytes(),
            indexing,
        };
        assert_eq!(list.iter().collect::<Vec<_>>(), [field]);
        assert_eq!(decoder.generation(), entries, "entries made");
    }
}

#[test]
fn rfc_appendix_c3_to_c6_sequences() {
    let sequences: [Sequence; 4] = [
        (
            "C.3",
            4_096,
            REQUESTS,
            [
                "828684410f7777772e6578616d706c652e636f6d",
                "828684be58086e6f2d6361636865",
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
            ],
            false,
        ),
        (
            "C.4",
            4_096,
            REQUESTS,
            [
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                "828684be5886a8eb10649cbf",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ],
            true,
        ),
        (
            "C.5",
            256,
            RESPONSES,
            [
                "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
                "4803333037c1c0bf",
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
            ],
            false,
        ),
        (
            "C.6",
            256,
            RESPONSES,
            [
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
                "4883640effc1c0bf",
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
            ],
            true,
        ),
    ];
    for (name, table_bytes, lists, blocks, huffman_coded) in sequences {
        let mut decoder = Decoder::new(table_bytes);
        let mut encoder = Encoder::new(table_bytes);
        for (fields, block) in lists.into_iter().zip(blocks) {
            assert_eq!(
                pairs(&decode(&mut decoder, &hex(block)).unwrap()),
                owned(fields),
                "{name}"
            );
            let mut out = Vec::new();
            encoder.encode(
                fields
                    .iter()
                    .map(|(n, v)| Field::new(n.as_bytes(), v.as_bytes())),
                &mut out,
            );
            // The examples also code strings that become no shorter, such as "307".
            if huffman_coded && fields[0].1 != "307" {
                assert_eq!(
                    out,
                    hex(block),
                    "{name}: our encoder makes the same choices"
                );
            }
        }
        assert_eq!(
            encoder.table_size(),
            if table_bytes == 256 { 215 } else { 164 }
        );
    }
}

#[test]
fn h1_integers() {
    // Five continuation bytes reach 2^35; anything above 2^32-1, and a sixth byte, is refused.
    for (bytes, expected) in [
        ("ff80808080" /* and on */, Err(DecodeError::Truncated)),
        ("ff8080808000", Ok(127)),
        ("ff80fffffffff0", Err(DecodeError::IntegerOverflow)),
        ("ff808080808000", Err(DecodeError::IntegerOverflow)),
        ("ffffffffff7f", Err(DecodeError::IntegerOverflow)),
        ("ff80ffffff0f", Ok(u32::MAX)),
        ("ff81ffffff0f", Err(DecodeError::IntegerOverflow)),
        ("7f", Ok(127)),
    ] {
        let bytes = hex(bytes);
        let prefix_bits = if bytes[0] == 0x7f { 8 } else { 7 };
        assert_eq!(
            integer::decode(&bytes, &mut 0, prefix_bits),
            expected,
            "{bytes:x?}"
        );
    }
    assert_eq!(
        error(&hex("ffffffffffffffffffff01")),
        DecodeError::IntegerOverflow
    );
}

#[test]
fn h2_indices() {
    for block in ["80", "be", "ffff7f", "7f000161", "ff80ffffff0f"] {
        assert_eq!(error(&hex(block)), DecodeError::InvalidIndex, "{block}");
    }
    assert_eq!(
        pairs(&decode(&mut Decoder::new(4_096), &hex("bd")).unwrap()),
        owned(&[("www-authenticate", "")])
    );
}

#[test]
fn h3_string_length_beyond_the_block() {
    for block in [
        "00",
        "0005616263",
        "0001610a62",
        "007fffffff7f6162",
        "00ff80ffffff0f",
        "40",
        "4001",
    ] {
        assert_eq!(error(&hex(block)), DecodeError::Truncated, "{block}");
    }
    let list = {
        let mut list = FieldList::new();
        let _ = Decoder::new(4_096).decode(&hex("007fffffff7f6162"), &mut list);
        list
    };
    assert!(list.is_empty() && list.clone().buffer().capacity() < 1_024);
}

#[test]
fn h4_huffman() {
    let huffman = |bytes: &str| {
        let mut out = Vec::new();
        huffman::decode(&hex(bytes), &mut out).map(|()| out)
    };
    assert_eq!(
        huffman("f1e3c2e5f23a6ba0ab90f4ff").unwrap(),
        b"www.example.com"
    );
    assert_eq!(huffman(""), Ok(vec![]));
    // EOS is 30 ones; padding may be at most seven; it must be ones; a code may not be cut.
    for bad in [
        "ffffffff", "fffffffc", "ff", "1fff", "00", "18", "fe", "ffc0", "fffffff0",
    ] {
        let result = huffman(bad);
        if bad == "00" {
            assert_eq!(
                result,
                Err(DecodeError::InvalidHuffman),
                "three zero bits of padding"
            );
        } else {
            assert!(result.is_err(), "{bad}: {result:?}");
        }
    }
    assert_eq!(huffman("07").unwrap(), b"0", "three ones of padding");
    // Every symbol, alone and among others.
    for symbol in 0..=255u8 {
        for text in [vec![symbol], vec![b'a', symbol, b'~'], vec![symbol; 9]] {
            let mut coded = Vec::new();
            huffman::encode(&text, &mut coded);
            assert_eq!(coded.len(), huffman::encoded_len(&text));
            let mut back = Vec::new();
            assert_eq!(huffman::decode(&coded, &mut back), Ok(()));
            assert_eq!(back, text);
            let cut = &coded[..coded.len() - 1];
            let mut out = Vec::new();
            // A cut string decodes to something shorter or is refused, never to the same.
            assert!(huffman::decode(cut, &mut out).is_err() || out != text);
        }
    }
}

#[test]
fn h5_table_size_updates() {
    let decoder = || Decoder::new(4_096);
    assert!(
        decode(&mut decoder(), &hex("203fe11f82")).is_ok(),
        "0, then 4096"
    );
    assert_eq!(
        error(&hex("3fe21f82")),
        DecodeError::InvalidSizeUpdate,
        "4097"
    );
    assert_eq!(
        error(&hex("8220")),
        DecodeError::InvalidSizeUpdate,
        "not at the start"
    );
    assert_eq!(
        error(&hex("20202082")),
        DecodeError::InvalidSizeUpdate,
        "three"
    );
    // After we lowered it, the next block must say so.
    let mut lowered = decoder();
    lowered.set_table_bytes_max(100);
    assert_eq!(
        decode(&mut lowered, &hex("82")),
        Err(DecodeError::InvalidSizeUpdate)
    );
    let mut lowered = decoder();
    lowered.set_table_bytes_max(100);
    assert!(decode(&mut lowered, &hex("3f4582")).is_ok());
    assert!(decode(&mut lowered, &hex("82")).is_ok(), "once is enough");
    assert_eq!(
        decode(&mut lowered, &hex("3f4682")),
        Err(DecodeError::InvalidSizeUpdate),
        "101"
    );
}

#[test]
fn h6_entry_larger_than_the_table() {
    let mut decoder = Decoder::new(64);
    let mut block = hex("4001610162");
    decode(&mut decoder, &block).unwrap();
    assert_eq!(
        pairs(&decode(&mut decoder, &hex("be")).unwrap()),
        owned(&[("a", "b")])
    );
    block = hex("40016121");
    block.extend_from_slice(&[b'v'; 33]);
    let list = decode(&mut decoder, &block).unwrap();
    assert_eq!(pairs(&list), owned(&[("a", &"v".repeat(33))]));
    assert_eq!(
        decode(&mut decoder, &hex("be")),
        Err(DecodeError::InvalidIndex),
        "the table is empty"
    );
}

#[test]
fn h7_name_of_the_entry_that_is_evicted() {
    // Room for one entry: the new one takes its name from the one that it drives out.
    let mut decoder = Decoder::new(50);
    decode(&mut decoder, &hex("40046e616d650131")).unwrap();
    assert_eq!(
        pairs(&decode(&mut decoder, &hex("7e0132")).unwrap()),
        owned(&[("name", "2")])
    );
    assert_eq!(
        pairs(&decode(&mut decoder, &hex("be")).unwrap()),
        owned(&[("name", "2")])
    );
    assert_eq!(
        decode(&mut decoder, &hex("bf")),
        Err(DecodeError::InvalidIndex)
    );
}

#[test]
fn h9_secrets_enter_no_table() {
    let mut encoder = Encoder::new(4_096);
    let mut decoder = Decoder::new(4_096);
    for _ in 0..2 {
        let mut block = Vec::new();
        encoder.encode(
            [Field::never_indexed(b"authorization", b"secret")],
            &mut block,
        );
        assert_eq!(block[0] & 0xf0, 0x10);
        let list = decode(&mut decoder, &block).unwrap();
        assert_eq!(
            list.iter().next().unwrap().indexing,
            Indexing::Never,
            "kept when forwarded"
        );
    }
    assert_eq!((encoder.table_size(), decoder.generation()), (0, 0));
}

#[test]
fn list_limits_count_decoded_fields() {
    let mut decoder = Decoder::new(4_096);
    let block = vec![0x82; limits::HEADER_COUNT_MAX + 1];
    let list = decode(&mut decoder, &block).unwrap();
    assert_eq!(
        (list.len(), list.fit()),
        (limits::HEADER_COUNT_MAX, Fit::Truncated)
    );
    let block = vec![0x82; limits::HEADER_LIST_BYTES_CLOSE / 40];
    assert_eq!(decode(&mut decoder, &block), Err(DecodeError::ListTooLarge));
}

fn field() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, u8)> {
    let name = prop_oneof![
        Just(b":path".to_vec()),
        Just(b"grpc-timeout".to_vec()),
        Just(b"x".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..60),
    ];
    let value = prop_oneof![
        Just(b"/".to_vec()),
        "[a-z0-9]{0,30}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..200),
    ];
    (name, value, 0..3u8)
}

proptest! {
    /// H8, H11: whatever is encoded decodes to the same, through changes of the table limit, and both tables stay within it.
    #[test]
    fn h8_h11_round_trip(
        blocks in proptest::collection::vec((proptest::collection::vec(field(), 0..12), any::<Option<u16>>()), 1..12),
        own_max in 0usize..5_000,
    ) {
        let mut encoder = Encoder::new(own_max.min(4_096));
        let mut decoder = Decoder::new(4_096);
        if own_max < 4_096 {
            // Our encoder starts below the default without saying so, which is allowed.
            decoder = Decoder::new(own_max);
        }
        for (fields, limit) in blocks {
            if let Some(limit) = limit {
                encoder.set_peer_max(usize::from(limit));
                decoder.set_table_bytes_max(usize::from(limit).min(own_max.min(4_096)));
            }
            let mut block = Vec::new();
            let indexing = |n: u8| [Indexing::Add, Indexing::Without, Indexing::Never][usize::from(n)];
            encoder.encode(fields.iter().map(|(name, value, n)| Field { name, value, indexing: indexing(*n) }), &mut block);
            let list = decode(&mut decoder, &block).unwrap();
            prop_assert!(encoder.table_size() <= own_max);
            let expected: Vec<(&[u8], &[u8])> = fields.iter().map(|(n, v, _)| (&n[..], &v[..])).collect();
            let got: Vec<(&[u8], &[u8])> = list.iter().map(|f| (f.name, f.value)).collect();
            prop_assert_eq!(got, expected);
        }
    }

    /// A prepared block means the same as one encoded afresh, whatever happens to the table in between.
    #[test]
    fn prepared_blocks_stay_true(limits in proptest::collection::vec(any::<Option<u8>>(), 1..30)) {
        const FIELDS: &[(&[u8], &[u8])] = &[(b":status", b"200"), (b"content-type", b"application/grpc")];
        let mut encoder = Encoder::new(4_096);
        let mut decoder = Decoder::new(4_096);
        let mut prepared = Prepared::default();
        for (round, limit) in limits.into_iter().enumerate() {
            let mut block = Vec::new();
            match limit {
                Some(limit) => {
                    encoder.set_peer_max(usize::from(limit));
                    decoder.set_table_bytes_max(usize::from(limit));
                }
                None if round % 3 == 0 => {
                    let value = round.to_string();
                    encoder.encode([Field::new(b"x", value.as_bytes())], &mut block);
                    decode(&mut decoder, &block).unwrap();
                    block.clear();
                }
                None => {}
            }
            encoder.encode_prepared(&mut prepared, FIELDS.iter().map(|(n, v)| Field::new(n, v)), &mut block);
            let list = decode(&mut decoder, &block).unwrap();
            prop_assert_eq!(list.iter().map(|f| (f.name, f.value)).collect::<Vec<_>>(), FIELDS.to_vec());
        }
    }

    /// Any bytes decode or are refused; what was decoded encodes and decodes to itself.
    #[test]
    fn arbitrary_blocks(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..5)) {
        let mut decoder = Decoder::new(4_096);
        for block in blocks {
            let Ok(list) = decode(&mut decoder, &block) else { break };
            let mut again = Vec::new();
            Encoder::new(4_096).encode(list.iter(), &mut again);
            let back = decode(&mut Decoder::new(4_096), &again).unwrap();
            prop_assert_eq!(back.iter().collect::<Vec<_>>(), list.iter().collect::<Vec<_>>());
        }
    }
}
