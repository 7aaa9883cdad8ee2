//! Databases of etcd's: real ones are taken over with the hashes that etcd had, and what is written is read again.
//!
//! `etcd-3.5.1/*.db` are `etcdctl snapshot save` files of real servers; the hashes were reported by these.

use bytes::Bytes;
use engine::{
    interchange::{
        bbolt::write::Writer,
        export::Export,
        import::{Import, ImportError},
    },
    page::{Miss, Options as PageOptions, PageDir, PageFile, Pages, RealDir, SimFile},
    store::{
        install::{Arriving, InstallJob, StageJob},
        meta::LogMark,
        ApplyError, Options, Store,
    },
};
use prost::Message as _;
use proto::etcdserverpb::{
    AlarmMember, CompactionRequest, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest,
    PutRequest,
};
use proto::raftpb::{ConfState, Message, Snapshot, SnapshotMetadata};
use std::{
    io,
    sync::{Arc, Mutex},
};

const SINGLE: &[u8] = include_bytes!("etcd-3.5.1/single.db");
const ALARM: &[u8] = include_bytes!("etcd-3.5.1/alarm.db");
const MEMBER: u64 = 833_007_991_363_753_733;

fn page_options() -> PageOptions {
    PageOptions {
        create: true,
        resident_bytes_max: 16 << 20,
        growth_bytes: 1 << 20,
        reserve_bytes: 0,
    }
}

/// A page file's directory in memory.
#[derive(Default)]
struct Dir(Mutex<SimFile>);

impl PageDir for Dir {
    fn create_incoming(&self) -> io::Result<Arc<dyn PageFile>> {
        *self.0.lock().unwrap() = SimFile::new();
        Ok(Arc::new(self.0.lock().unwrap().clone()))
    }

    fn create_spool(&self) -> io::Result<Arc<dyn PageFile>> {
        Ok(Arc::new(SimFile::new()))
    }

    fn install(&self) -> io::Result<Arc<dyn PageFile>> {
        Ok(Arc::new(self.0.lock().unwrap().clone()))
    }
}

/// The old store's tree with one member.
fn members(id: u64) -> String {
    let raft = r#"{\"peerURLs\":[\"http://127.0.0.1:25380\"]}"#;
    let own = r#"{\"name\":\"m0\",\"clientURLs\":[\"http://127.0.0.1:25379\"]}"#;
    format!(
        r#"{{"Root":{{"Children":{{"0":{{"Children":{{
            "members":{{"Children":{{"{id:x}":{{"Children":{{
                "raftAttributes":{{"Value":"{raft}"}},"attributes":{{"Value":"{own}"}}}}}}}}}},
            "removed_members":{{"Children":{{"abc":{{"Value":""}}}}}},
            "version":{{"Value":"3.5.0"}}}}}}}}}}}}"#
    )
}

fn snapshot(index: u64, term: u64) -> Snapshot {
    Snapshot {
        data: Some(members(MEMBER).into()),
        metadata: Some(SnapshotMetadata {
            conf_state: Some(ConfState {
                voters: vec![MEMBER],
                ..ConfState::default()
            }),
            index: Some(index),
            term: Some(term),
        }),
    }
}

/// Takes a database in, in pieces of some size, until it can be taken over.
fn stage(image: &[u8], snapshot: Snapshot, piece: usize, dir: &Dir) -> Result<Arriving, String> {
    let pieces = image.len().div_ceil(piece).max(1);
    let part = |n: usize| {
        let part = image.chunks(piece).nth(n).unwrap_or_default();
        Bytes::copy_from_slice(part)
    };
    let run = |job: StageJob| job.run(dir).result.map_err(|error| error.to_string());
    let mut arriving = run(StageJob::database(snapshot, part(0), pieces == 1))?;
    for n in 1..pieces {
        assert!(!arriving.is_working() && !arriving.is_whole());
        arriving = run(StageJob::take(arriving, part(n), n + 1 == pieces))?;
    }
    while arriving.is_working() {
        arriving = run(StageJob::work(arriving))?;
    }
    assert!(arriving.is_whole());
    Ok(arriving)
}

fn install(arriving: Arriving, dir: &Dir) -> Store {
    let job = InstallJob {
        arriving,
        log: LogMark {
            position: Bytes::from_static(b"here"),
            first_needed_segment: 3,
            restarts: true,
        },
        pages: page_options(),
        store: Options::default(),
    };
    *job.run(dir).unwrap()
}

fn taken_over(image: &[u8], snapshot: Snapshot) -> Store {
    let dir = Dir::default();
    let arriving = stage(image, snapshot, 10_000, &dir).unwrap();
    install(arriving, &dir)
}

fn fetch(store: &mut Store, miss: &Miss) {
    let pages = store.pages_mut();
    let job = pages.fetch_job(miss).unwrap();
    pages.fetch_done(job.run()).unwrap();
}

/// HashKV and the compacted revision.
fn hash_kv(store: &mut Store, revision: i64) -> (u32, i64) {
    let mut job = store.hash_kv(revision);
    loop {
        match job.step(store, 1000) {
            Ok(Some(done)) => {
                let done = done.unwrap();
                return (done.hash, done.compact_revision);
            }
            Ok(None) => {}
            Err(miss) => fetch(store, &miss),
        }
    }
}

fn lease_keys(store: &mut Store, id: i64) -> Vec<Vec<u8>> {
    loop {
        match store.lease_keys(id) {
            Ok(keys) => return keys,
            Err(miss) => fetch(store, &miss),
        }
    }
}

#[test]
fn a_real_database_is_taken_over_with_its_hashes() {
    let mut store = taken_over(SINGLE, snapshot(78, 2));
    assert_eq!(store.applied(), (78, 2));
    assert_eq!((store.revision(), store.compacted()), (44, 34));
    for (revision, hash) in [
        (35, 4_137_011_854),
        (36, 724_343_237),
        (37, 4_151_189_467),
        (38, 1_477_576_357),
        (39, 3_076_097_382),
        (40, 3_798_056_488),
        (41, 777_294_545),
        (42, 1_584_733_194),
        (43, 4_024_993_986),
        (44, 2_201_702_337),
        (0, 2_201_702_337),
    ] {
        assert_eq!(hash_kv(&mut store, revision), (hash, 34), "{revision}");
    }
    let lease = 7_587_848_390_000_000_001;
    let record = store.lessor().record(lease).unwrap();
    assert_eq!((record.ttl_seconds, record.remaining_seconds), (7200, 0));
    assert_eq!(lease_keys(&mut store, lease), [b"leased"]);
    let listed = store.member_list();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].id, &*listed[0].name), (MEMBER, "m0"));
    assert_eq!(listed[0].client_ur_ls, ["http://127.0.0.1:25379"]);
    assert_eq!(store.removed_members().collect::<Vec<_>>(), [0xabc]);
    assert_eq!(store.cluster_version().unwrap().to_string(), "3.5.0");
    assert_eq!(store.conf_state().voters, [MEMBER]);
    assert!(store.log_mark().restarts);
    assert!(store.alarms().is_empty());
}

#[test]
fn alarms_are_taken_over() {
    let mut store = taken_over(ALARM, snapshot(13, 2));
    let raised = AlarmMember {
        member_id: MEMBER,
        alarm: 1,
    };
    assert_eq!(store.alarms(), [raised]);
    assert_eq!(hash_kv(&mut store, 0), (92_171_967, -1));
}

fn refusal(image: &[u8], snapshot: Snapshot) -> String {
    let staged = stage(image, snapshot, 4096, &Dir::default());
    staged.err().expect("a refusal")
}

#[test]
fn what_is_not_what_its_message_says_is_refused() {
    assert!(refusal(SINGLE, snapshot(77, 2)).contains("entry 78"));
    assert!(refusal(SINGLE, snapshot(78, 3)).contains("of term 3"));
    let mut other = snapshot(78, 2);
    other.data = Some(members(5).into());
    assert!(refusal(SINGLE, other).contains("the cluster [5]"));
    let mut none = snapshot(78, 2);
    none.data = None;
    assert!(refusal(SINGLE, none).contains("no JSON"));
}

/// A database with these entries and what every one has.
fn database(entries: &[(&'static str, &[u8], &[u8])]) -> Vec<u8> {
    let put = |writer: &mut Writer| {
        for name in [
            "alarm",
            "auth",
            "authRoles",
            "authUsers",
            "cluster",
            "key",
            "lease",
            "members",
            "members_removed",
            "meta",
        ] {
            if name == "meta" {
                writer.put(b"consistent_index", &78u64.to_be_bytes());
            }
            for (_, key, value) in entries.iter().filter(|(bucket, ..)| *bucket == name) {
                writer.put(key, value);
            }
            writer.end_bucket(name);
        }
        writer.finish()
    };
    let layout = put(&mut Writer::measuring());
    let mut writer = Writer::writing(layout);
    put(&mut writer);
    let image = writer.take_output();
    assert_eq!(image.len() as u64, layout.bytes());
    image
}

#[test]
fn authentication_is_refused_and_users_alone_are_told() {
    let enabled = database(&[("auth", b"authEnabled", &[1])]);
    assert!(refusal(&enabled, snapshot(78, 2)).contains("etcdctl auth disable"));
    let users = database(&[("auth", b"authEnabled", &[0]), ("authUsers", b"a", b"")]);
    let staged = stage(&users, snapshot(78, 2), 4096, &Dir::default()).unwrap();
    assert!(staged.notice().unwrap().starts_with("1 users"));
}

fn row(main: u8, sub: u8, is_tombstone: bool) -> Vec<u8> {
    let mut key = [0, 0, 0, 0, 0, 0, 0, main, b'_', 0, 0, 0, 0, 0, 0, 0, sub].to_vec();
    key.extend(is_tombstone.then_some(b't'));
    key
}

#[test]
fn rows_that_no_etcd_writes_are_refused() {
    let put = |main: u8, create: u8, version: u8| {
        [0x0a, 1, b'k', 0x10, create, 0x18, main, 0x20, version].to_vec()
    };
    type Rows = Vec<(Vec<u8>, Vec<u8>)>;
    let rows: [(&str, Rows); 10] = [
        ("no key and value", vec![(row(2, 0, false), vec![0xff])]),
        ("no revision", vec![(b"2".to_vec(), put(2, 2, 1))]),
        (
            "of another revision",
            vec![(row(2, 0, false), put(3, 2, 1))],
        ),
        ("does not follow", vec![(row(2, 0, false), put(2, 2, 2))]),
        ("does not follow", vec![(row(3, 0, false), put(3, 2, 1))]),
        (
            "does not follow",
            vec![
                (row(2, 0, false), put(2, 2, 1)),
                (row(3, 0, false), put(3, 2, 3)),
            ],
        ),
        ("holds a value", vec![(row(2, 0, true), put(2, 2, 1))]),
        ("holds a value", vec![(row(2, 0, true), Vec::new())]),
        (
            "as etcd writes it",
            vec![(row(2, 0, false), [put(2, 2, 1), vec![0x30, 0]].concat())],
        ),
        (
            "one twice",
            vec![
                (row(2, 0, false), put(2, 2, 1)),
                (row(2, 0, true), vec![0x0a, 1, b'k']),
            ],
        ),
    ];
    for (why, rows) in rows {
        let rows: Vec<_> = rows.iter().map(|(k, v)| ("key", &k[..], &v[..])).collect();
        let refusal = refusal(&database(&rows), snapshot(78, 2));
        assert!(refusal.contains(why), "{why}: {refusal}");
    }
    let sound = [
        (row(2, 0, false), put(2, 2, 1)),
        (row(3, 0, false), put(3, 2, 2)),
    ];
    let sound: Vec<_> = sound.iter().map(|(k, v)| ("key", &k[..], &v[..])).collect();
    assert_eq!(taken_over(&database(&sound), snapshot(78, 2)).revision(), 3);
}

/// `etcdutl snapshot restore --bump-revision --mark-compacted` leaves a row without anything, and a compaction to be done.
#[test]
fn a_revision_that_was_raised_stays_raised() {
    let put = [0x0a, 1, b'k', 0x10, 2, 0x18, 2, 0x20, 1];
    let database = database(&[
        ("key", &row(2, 0, false), &put),
        ("key", &row(100, 0, false), b""),
        ("meta", b"scheduledCompactRev", &row(100, 0, false)),
    ]);
    let mut store = taken_over(&database, snapshot(78, 2));
    assert_eq!((store.revision(), store.compacted()), (100, 100));
    let hash = hash_kv(&mut store, 0);
    while store.compaction_pending() {
        if let Err(miss) = store.compaction_step(100) {
            fetch(&mut store, &miss);
        }
    }
    assert_eq!(hash_kv(&mut store, 0), hash);
    let all = proto::etcdserverpb::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        ..Default::default()
    };
    let seen = store.range(&all).unwrap().unwrap();
    assert_eq!((seen.count, seen.kvs.len()), (1, 1));
}

/// A key whose lease is not there belongs to none, as at an etcd.
#[test]
fn a_lease_that_is_not_there_has_no_keys() {
    let leased = [0x0a, 1, b'k', 0x10, 2, 0x18, 2, 0x20, 1, 0x30, 9];
    let database = database(&[("key", &row(2, 0, false), &leased)]);
    let mut store = taken_over(&database, snapshot(78, 2));
    assert!(lease_keys(&mut store, 9).is_empty());
}

#[test]
fn no_change_of_a_byte_does_harm() {
    let image = &SINGLE[..SINGLE.len() - 32];
    for cut in (0..image.len()).step_by(4021) {
        assert!(stage(&image[..cut], snapshot(78, 2), 4096, &Dir::default()).is_err());
    }
    let mut changed = image.to_vec();
    let (mut taken, mut refused) = (0, 0);
    // Every byte of the format itself is changed in `interchange::fuzzing`; here what follows from it is of interest.
    for at in (0..image.len()).filter(|at| image[*at] != 0).step_by(37) {
        changed[at] ^= 1 << (at % 8);
        match stage(&changed, snapshot(78, 2), 1 << 20, &Dir::default()) {
            Ok(_) => taken += 1, // a value, a name: nothing says what it was
            Err(_) => refused += 1,
        }
        changed[at] = image[at];
    }
    assert!(taken > 50 && refused > 10, "{taken} {refused}");
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % bound as u64) as usize
    }
}

fn apply(store: &mut Store, request: InternalRaftRequest) {
    let (index, _) = store.applied();
    while let Err(error) = store.apply(index + 1, 1, Some(&request), 0) {
        match error {
            ApplyError::Miss(miss) => fetch(store, &miss),
            fatal => panic!("{fatal:?}"),
        }
    }
}

/// A request of one of many kinds.
fn request(random: &mut Random, keys: usize, revision: i64) -> InternalRaftRequest {
    let mut request = InternalRaftRequest::default();
    let key = match random.below(50) {
        0 => vec![b'k'; 1 + random.below(32_000)],
        _ => format!("key{}", random.below(keys)).into_bytes(),
    };
    match random.below(20) {
        0 => {
            request.delete_range = Some(DeleteRangeRequest {
                key: key.into(),
                ..Default::default()
            });
        }
        1 => {
            request.lease_grant = Some(LeaseGrantRequest {
                ttl: 100,
                id: 1 + random.below(40) as i64 - 20,
            });
        }
        2 if random.below(30) == 0 => {
            request.compaction = Some(CompactionRequest {
                revision: 1 + random.below(revision as usize) as i64,
                physical: false,
            });
        }
        _ => {
            let len = match random.below(60) {
                0 => random.below(200_000),
                _ => random.below(120),
            };
            let lease = match random.below(4) {
                0 => 1 + random.below(40) as i64 - 20,
                _ => 0,
            };
            request.put = Some(PutRequest {
                key: key.into(),
                value: vec![len as u8; len].into(),
                lease,
                ..Default::default()
            });
        }
    }
    request
}

fn checkpoint(store: &mut Store) {
    let job = store.begin_checkpoint(LogMark::default()).unwrap();
    let done = job.run().unwrap();
    store.pages_mut().checkpoint_done(done);
}

fn filled(seed: u64, requests: usize, keys: usize) -> Store {
    let mut random = Random(seed);
    let opened = Pages::open(Arc::new(SimFile::new()), page_options()).unwrap();
    let mut store = Store::create(opened.pages, Options::default());
    for at in 0..requests {
        let revision = store.revision();
        apply(&mut store, request(&mut random, keys, revision));
        // As far as it happens to come.
        while random.below(3) == 0 {
            if let Err(miss) = store.compaction_step(50) {
                fetch(&mut store, &miss);
            }
        }
        if at % 997 == 996 {
            checkpoint(&mut store);
        }
    }
    checkpoint(&mut store);
    store
}

/// The stream of an export, in reads of different sizes.
fn stream(mut export: Export, random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    while !export.ends_at(out.len() as u64) {
        let part = export.read(out.len() as u64, 1 + random.below(100_000));
        out.extend(part.unwrap());
    }
    out
}

#[test]
fn what_is_written_is_read_again_and_goes_on_alike() {
    for (seed, requests, keys) in [
        (1, 0, 1),
        (2, 1, 1),
        (3, 300, 20),
        (4, 2500, 300),
        (5, 9000, 5000),
    ] {
        println!("seed {seed}");
        let mut random = Random(seed + 100);
        let mut theirs = filled(seed, requests, keys);
        let source = Arc::new(theirs.pages_mut().pin().into_source().unwrap());
        let (index, term) = theirs.applied();
        let mut ours = {
            let conf_state = theirs.conf_state().clone();
            assert!(conf_state.voters.is_empty());
            let export = Export::bare(source.clone(), Options::default());
            let database = stream(export, &mut random);
            assert_eq!(database.len() % 4096, 0);
            taken_over(&database, snapshot(index, term))
        };
        assert_eq!(ours.applied(), theirs.applied());
        for _ in 0..300 {
            assert_eq!(ours.revision(), theirs.revision());
            assert_eq!(ours.compacted(), theirs.compacted());
            let revision = match random.below(3) {
                0 => 0,
                _ => {
                    let least = theirs.compacted().max(1);
                    least + random.below((theirs.revision() - least + 1) as usize) as i64
                }
            };
            if random.below(10) == 0 {
                let both = [&mut ours, &mut theirs].map(|store| hash_kv(store, revision));
                // Either may remember what it computed when it compacted; then it is of the compaction before.
                if both[0].1 == both[1].1 {
                    assert_eq!(both[0], both[1], "at {revision}");
                }
            }
            let lease = random.below(40) as i64 - 20;
            assert_eq!(lease_keys(&mut ours, lease), lease_keys(&mut theirs, lease));
            let request = request(&mut random, keys, theirs.revision());
            apply(&mut ours, request.clone());
            apply(&mut theirs, request);
        }
        assert_eq!(hash_kv(&mut ours, 0), hash_kv(&mut theirs, 0));
    }
}

#[test]
fn a_snapshot_for_a_member_has_its_members_before_the_database() {
    let mut theirs = taken_over(SINGLE, snapshot(78, 2));
    let source = Arc::new(theirs.pages_mut().pin().into_source().unwrap());
    let message = Message {
        to: Some(7),
        snapshot: Some(snapshot(78, 2)),
        ..Message::default()
    };
    let export = Export::for_member(source, Options::default(), message);
    let body = stream(export, &mut Random(1));
    let (length, rest) = body.split_at(8);
    let length = u64::from_be_bytes(length.try_into().unwrap()) as usize;
    let message = Message::decode(&rest[..length]).unwrap();
    assert_eq!(message.to(), 7);
    let mut ours = taken_over(&rest[length..], message.snapshot.unwrap());
    assert_eq!(ours.member_list(), theirs.member_list());
    assert!(ours.removed_members().eq(theirs.removed_members()));
    assert_eq!(ours.cluster_version(), theirs.cluster_version());
    assert_eq!(hash_kv(&mut ours, 0), (2_201_702_337, 34));
}

#[test]
fn an_import_that_is_not_whole_is_never_finished() {
    let mut import = Import::new(
        Arc::new(SimFile::new()),
        Arc::new(SimFile::new()),
        snapshot(78, 2),
    );
    import.take(SINGLE).unwrap();
    assert!(!import.is_whole() && !import.is_working());
    assert!(matches!(import.finish(b""), Err(ImportError::Refused(_))));
}

#[test]
fn a_spooled_database_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let dir = RealDir::new(&place.path().join("store.pages"));
    let names = || {
        let entries = std::fs::read_dir(place.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    let staged = StageJob::database(snapshot(78, 2), Bytes::from_static(SINGLE), true);
    let mut arriving = staged.run(&dir).result.unwrap();
    assert_eq!(names(), ["store.pages.incoming"]);
    while arriving.is_working() {
        arriving = StageJob::work(arriving).run(&dir).result.unwrap();
    }
    let job = InstallJob {
        arriving,
        log: LogMark::default(),
        pages: page_options(),
        store: Options::default(),
    };
    let mut store = *job.run(&dir).unwrap();
    assert_eq!(names(), ["store.pages"]);
    assert_eq!(hash_kv(&mut store, 0), (2_201_702_337, 34));
    let begun = StageJob::database(snapshot(78, 2), Bytes::from_static(SINGLE), false);
    let begun = begun.run(&dir).result.unwrap();
    assert!(StageJob::discard(begun).run(&dir).result.is_err());
}
