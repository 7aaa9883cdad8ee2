//! Output is compared byte for byte with that of etcdctl 3.5.1.
//!
//! `transcripts/etcdctl-3.5.1.json` holds what etcdctl printed for the same requests in each format. Its protobuf output is
//! the server's response, so every other format can be made of it again. Responses that have no protobuf output are built
//! by hand from the figures in the texts that they are compared with.

use base64::{engine::general_purpose::STANDARD, Engine as _};
use prost::Message;
use proto::etcdserverpb::{
    AlarmResponse, DeleteRangeResponse, HashKvResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseStatus, LeaseTimeToLiveResponse, Member, MemberListResponse,
    PutResponse, RangeResponse, ResponseHeader, StatusResponse, TxnResponse, WatchResponse,
};
use ringctl::output::{
    fields, json,
    simple::{self, Style},
    table,
};

const PLAIN: Style = Style {
    hex: false,
    values_only: false,
};
const HEX: Style = Style {
    hex: true,
    values_only: false,
};

/// Simple, simple with `--hex`, JSON and fields of one response.
struct Texts {
    simple: Vec<u8>,
    hex: Vec<u8>,
    json: String,
    fields: String,
}

fn texts(command: &str, response: &[u8]) -> Texts {
    fn decode<M: Message + Default>(bytes: &[u8]) -> M {
        M::decode(bytes).expect("a recorded response")
    }
    macro_rules! all {
        ($kind:ty, $name:ident) => {{
            let r: $kind = decode(response);
            Texts {
                simple: simple::$name(&r, PLAIN),
                hex: simple::$name(&r, HEX),
                json: json::$name(&r),
                fields: fields::$name(&r),
            }
        }};
    }
    match command {
        "put" => all!(PutResponse, put),
        "get" => all!(RangeResponse, get),
        "del" => all!(DeleteRangeResponse, del),
        "txn" => all!(TxnResponse, txn),
        "watch" => all!(WatchResponse, watch),
        "member list" => {
            let r: MemberListResponse = decode(response);
            let rows: Vec<_> = r.members.iter().map(simple::member_row).collect();
            let simple = simple::rows(&rows).into_bytes();
            let json = json::members(r.header.as_ref(), None, &r.members);
            Texts {
                hex: simple.clone(),
                simple,
                json,
                fields: fields::members(r.header.as_ref(), &r.members),
            }
        }
        "alarm list" => {
            let r: AlarmResponse = decode(response);
            assert!(r.alarms.is_empty());
            let (json, fields) = (
                json::header_only(r.header.as_ref()),
                fields::header_only(r.header.as_ref()),
            );
            Texts {
                simple: Vec::new(),
                hex: Vec::new(),
                json,
                fields,
            }
        }
        other => panic!("no format for {other}"),
    }
}

#[test]
fn recorded_responses_print_as_etcdctl_printed_them() {
    let file = include_str!("transcripts/etcdctl-3.5.1.json");
    let entries: Vec<serde_json::Value> = serde_json::from_str(file).unwrap();
    assert!(entries.len() >= 20);
    for entry in entries {
        let text = |name: &str| {
            entry[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name} in {entry}"))
                .to_owned()
        };
        let bytes = |name: &str| STANDARD.decode(text(name)).unwrap();
        let line = format!("{} {:?}", text("line"), text("stdin"));
        let ours = texts(&text("command"), &bytes("protobuf"));
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(shown(&ours.simple), shown(&bytes("simple")), "{line}");
        assert_eq!(ours.simple, bytes("simple"), "{line}");
        assert_eq!(shown(&ours.hex), shown(&bytes("hex")), "{line} --hex");
        assert_eq!(ours.json + "\n", shown(&bytes("json")), "{line} -w json");
        assert_eq!(ours.fields, shown(&bytes("fields")), "{line} -w fields");
    }
}

fn header(revision: i64) -> ResponseHeader {
    ResponseHeader {
        cluster_id: 17140005858302137346,
        member_id: 235428040816484841,
        revision,
        raft_term: 2,
    }
}

#[test]
fn leases() {
    let h = Some(header(14));
    let grant = LeaseGrantResponse {
        header: h,
        id: 7055348435851338303,
        ttl: 100,
        error: String::new(),
    };
    assert_eq!(
        json::lease_grant(&grant),
        r#"{"cluster_id":17140005858302137346,"member_id":235428040816484841,"revision":14,"raft_term":2,"ID":7055348435851338303,"TTL":100,"Error":""}"#
    );
    let list = LeaseLeasesResponse {
        header: h,
        leases: vec![
            LeaseStatus {
                id: 7055348435851338299,
            },
            LeaseStatus {
                id: 7055348435851338301,
            },
        ],
    };
    assert_eq!(
        json::lease_list(&list),
        r#"{"cluster_id":17140005858302137346,"member_id":235428040816484841,"revision":14,"raft_term":2,"leases":[{"id":7055348435851338299},{"id":7055348435851338301}]}"#
    );
    let live = LeaseTimeToLiveResponse {
        header: Some(header(16)),
        id: 0x61e9a2058586e243,
        ttl: 299,
        granted_ttl: 300,
        keys: vec!["lk1".into(), "lk2".into()],
    };
    assert_eq!(
        simple::lease_time_to_live(&live, true),
        "lease 61e9a2058586e243 granted with TTL(300s), remaining(299s), attached keys([lk1 lk2])\n"
    );
    assert_eq!(
        json::lease_time_to_live(&live, true),
        r#"{"cluster_id":17140005858302137346,"member_id":235428040816484841,"revision":16,"raft_term":2,"id":7055348435851338307,"ttl":299,"granted-ttl":300,"keys":["bGsx","bGsy"]}"#
    );
    let gone = LeaseTimeToLiveResponse {
        header: Some(header(16)),
        id: 0x1234,
        ttl: -1,
        ..Default::default()
    };
    assert_eq!(
        simple::lease_time_to_live(&gone, false),
        "lease 0000000000001234 already expired\n"
    );
    assert_eq!(
        json::lease_time_to_live(&gone, false),
        r#"{"cluster_id":17140005858302137346,"member_id":235428040816484841,"revision":16,"raft_term":2,"id":4660,"ttl":-1,"granted-ttl":0,"keys":null}"#
    );
    assert_eq!(
        fields::lease_time_to_live(&gone),
        "\"ClusterID\" : 17140005858302137346\n\"MemberID\" : 235428040816484841\n\"Revision\" : 16\n\"RaftTerm\" : 2\n\"ID\" : 4660\n\"TTL\" : -1\n\"GrantedTTL\" : 0\n"
    );
    let kept = LeaseKeepAliveResponse {
        header: Some(header(16)),
        id: 7055348435851338307,
        ttl: 300,
    };
    assert_eq!(
        json::lease_keep_alive(&kept),
        r#"{"cluster_id":17140005858302137346,"member_id":235428040816484841,"revision":16,"raft_term":2,"ID":7055348435851338307,"TTL":300}"#
    );
}

#[test]
fn endpoints() {
    let status = StatusResponse {
        header: Some(ResponseHeader {
            cluster_id: 10806291586593688632,
            member_id: 6197509968576257748,
            revision: 8,
            raft_term: 2,
        }),
        version: "3.5.1".into(),
        db_size: 1130496,
        leader: 6197509968576257748,
        raft_index: 20,
        raft_term: 2,
        raft_applied_index: 20,
        errors: vec!["memberID:6197509968576257748 alarm:NOSPACE ".into()],
        db_size_in_use: 1028096,
        ..Default::default()
    };
    assert_eq!(
        json::status(&status),
        r#"{"header":{"cluster_id":10806291586593688632,"member_id":6197509968576257748,"revision":8,"raft_term":2},"version":"3.5.1","dbSize":1130496,"leader":6197509968576257748,"raftIndex":20,"raftTerm":2,"raftAppliedIndex":20,"errors":["memberID:6197509968576257748 alarm:NOSPACE "],"dbSizeInUse":1028096}"#
    );
    let row = simple::status_row("127.0.0.1:24679", &status);
    assert_eq!(
        simple::rows(std::slice::from_ref(&row)),
        "127.0.0.1:24679, 5601fa7b08ee1ed4, 3.5.1, 1.1 MB, true, false, 2, 20, 20, memberID:6197509968576257748 alarm:NOSPACE \n"
    );
    let columns = [
        "endpoint",
        "id",
        "version",
        "db size",
        "is leader",
        "is learner",
        "raft term",
        "raft index",
        "raft applied index",
        "errors",
    ];
    assert_eq!(
        table::draw(&columns, &[row]),
        "\
+-----------------+------------------+---------+---------+-----------+------------+-----------+------------+--------------------+--------------------------------+
|    ENDPOINT     |        ID        | VERSION | DB SIZE | IS LEADER | IS LEARNER | RAFT TERM | RAFT INDEX | RAFT APPLIED INDEX |             ERRORS             |
+-----------------+------------------+---------+---------+-----------+------------+-----------+------------+--------------------+--------------------------------+
| 127.0.0.1:24679 | 5601fa7b08ee1ed4 |   3.5.1 |  1.1 MB |      true |      false |         2 |         20 |                 20 |   memberID:6197509968576257748 |
|                 |                  |         |         |           |            |           |            |                    |                 alarm:NOSPACE  |
+-----------------+------------------+---------+---------+-----------+------------+-----------+------------+--------------------+--------------------------------+
"
    );
    let hash = HashKvResponse {
        header: Some(header(14)),
        hash: 3028228067,
        compact_revision: -1,
        ..Default::default()
    };
    assert_eq!(
        json::hash_kv(&hash),
        r#"{"header":{"cluster_id":17140005858302137346,"member_id":235428040816484841,"revision":14,"raft_term":2},"hash":3028228067,"compact_revision":-1}"#
    );
}

#[test]
fn members() {
    let one = Member {
        id: 235428040816484841,
        name: "node1".into(),
        peer_ur_ls: vec!["http://127.0.0.1:24480".into()],
        client_ur_ls: vec!["http://127.0.0.1:24479".into()],
        is_learner: false,
    };
    let header = header(0);
    assert_eq!(
        json::members_hex(Some(&header), std::slice::from_ref(&one)),
        r#"{"header":{"cluster_id":"eddd888438369402","member_id":"344688e470861e9","raft_term":2},"members":[{"ID":"344688e470861e9","name":"node1","peerURLs":["http://127.0.0.1:24480"],"clientURLS":["http://127.0.0.1:24479"]}]}"#
    );
    let columns = [
        "id",
        "status",
        "name",
        "peer addrs",
        "client addrs",
        "is learner",
    ];
    assert_eq!(
        table::draw(&columns, &[simple::member_row(&one)]),
        "\
+-----------------+---------+-------+------------------------+------------------------+------------+
|       ID        | STATUS  | NAME  |       PEER ADDRS       |      CLIENT ADDRS      | IS LEARNER |
+-----------------+---------+-------+------------------------+------------------------+------------+
| 344688e470861e9 | started | node1 | http://127.0.0.1:24480 | http://127.0.0.1:24479 |      false |
+-----------------+---------+-------+------------------------+------------------------+------------+
"
    );
}
