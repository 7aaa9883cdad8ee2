//! The network between members breaks: cut, black hole, one way only, late.

use std::future::Future;
use std::time::{Duration, Instant};

use proto::etcdserverpb as pb;
use proto::{v3electionpb as election, v3lockpb as lock};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use ringd_tests::client::{needs_leader, Client};
use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::model::Refusal;
use ringd_tests::proxy::Link;
use ringd_tests::random::seed;
use ringd_tests::register::Register;
use ringd_tests::server::{eventually, is_ringd, PATIENCE};
use ringd_tests::witness::for_a_while;

use super::service::events;
use super::{
    cycles, load, pause_ms, refusal, seconds_since, settle, DEADLINE_EXCEEDED, FAILED_PRECONDITION,
    UNAVAILABLE,
};

/// How long a request waits at most: 5 s and two election timeouts.
const T: Duration = Duration::from_secs(7);
/// On top of what a server promises, for a loaded machine.
const SLACK: Duration = Duration::from_secs(4);
/// What must be there at once.
const AT_ONCE: Duration = Duration::from_secs(3);

async fn cluster() -> Cluster {
    Cluster::start(Plan::of(3).network()).await
}

fn no_leader() -> Refusal {
    refusal(UNAVAILABLE, "etcdserver: no leader")
}

/// Waits until a member knows of no leader.
async fn lost_leader(cluster: &Cluster, index: usize) {
    let end = Instant::now() + PATIENCE;
    while cluster.status(index).await.leader != 0 {
        assert!(Instant::now() < end, "m{index} still follows a leader");
        pause_ms(50).await;
    }
}

/// Both sides of a cut, for a leader and for a follower: the majority serves, the one that is cut off refuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_cut_off_harms_nobody() {
    let cluster = cluster().await;
    let load = load(&cluster);
    let register = Register::start(cluster.clients());
    let leader = cluster.leader().await;
    for victim in [(leader + 1) % 3, leader] {
        for link in [Link::Cut, Link::Held] {
            load.progress(20).await;
            let rest = cluster.others(victim);
            cluster.network().divide(&[victim], &rest, link);
            let cut = Instant::now();
            cluster.leader_of(&rest).await;
            for index in &rest {
                cluster.eventually_put(*index, "during", "v").await;
            }
            println!(
                "{link:?} m{victim}: both others write after {:.1} s",
                seconds_since(cut)
            );
            lost_leader(&cluster, victim).await;
            load.progress(20).await;
            let isolated = cluster.client(victim).deadline(Duration::from_millis(500));
            assert!(isolated.put("k", "v").await.is_err());
            assert!(isolated.get("k").await.is_err());
            cluster.network().heal();
            cluster.leader().await;
            cluster.eventually_put(victim, "after", "v").await;
        }
    }
    register.stop().await;
    settle(&cluster, load).await;
}

/// Bits flip on the way between the members: nobody applies what was not sent, and what was acknowledged stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bits_that_flip_on_the_way_are_noticed() {
    const FLIPS: u64 = 100;
    if !is_ringd() {
        return; // etcd's streams carry no checksums
    }
    let cluster = cluster().await;
    let load = load(&cluster);
    let register = Register::start(cluster.clients());
    load.progress(20).await;
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        cluster.network().between(a, b, Link::Garbled(20));
    }
    let network = cluster.network();
    eventually("bits flip", || network.flips() >= FLIPS).await;
    load.progress(1).await;
    network.heal();
    cluster.leader().await;
    register.stop().await;
    settle(&cluster, load).await;
}

/// One call of the table below: who must answer what, and when at the latest.
async fn refused<T: std::fmt::Debug>(
    what: &str,
    call: impl Future<Output = Result<T, Refusal>>,
    expected: Vec<Refusal>,
    within: Duration,
) {
    let started = Instant::now();
    let answer = call.await;
    let took = started.elapsed();
    let Err(refusal) = answer else {
        panic!("{what} succeeded without a quorum: {answer:?}");
    };
    assert!(expected.contains(&refusal), "{what}: {refusal:?}");
    assert!(took < within, "{what} took {took:?}");
}

/// What a proposal without a leader ends with; etcd 3.5.1 gives it another code.
fn proposal_without_leader() -> Vec<Refusal> {
    let text = "context deadline exceeded";
    match is_ringd() {
        true => vec![refusal(DEADLINE_EXCEEDED, text)],
        false => vec![refusal(DEADLINE_EXCEEDED, text), refusal(2, text)],
    }
}

fn timed_out() -> Vec<Refusal> {
    let variants = [
        "",
        ", possibly due to previous leader failure",
        ", possibly due to connection lost",
    ];
    let text = "etcdserver: request timed out";
    let refusals = variants
        .iter()
        .map(|v| refusal(UNAVAILABLE, &format!("{text}{v}")));
    refusals.collect()
}

/// A leader that is cut off still believes for a moment: what it takes then ends unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_lets_requests_time_out() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    cluster.client(leader).put("k", "v").await.expect("a put");
    let rest = cluster.others(leader);
    cluster.network().divide(&[leader], &rest, Link::Held);
    let client = cluster.client(leader);
    let put = client.put("k", "w");
    let put = refused(
        "a put",
        put,
        [timed_out(), proposal_without_leader()].concat(),
        T + SLACK,
    );
    let read = refused("a read", client.get("k"), timed_out(), 2 * T + SLACK);
    tokio::join!(put, read);
    let seen = cluster.client(rest[0]).get("k").await;
    assert_eq!(seen, Ok(Some("v".to_owned())));
    cluster.network().heal();
    cluster.leader().await;
    cluster.agree().await;
}

/// What is left of a lease is told by the leader alone, as long as it believes that it is one; here that is 5 s at least.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_tells_the_time_left() {
    let plan = Plan::of(3).network().setting("election-timeout", "5000");
    let cluster = Cluster::start(plan).await;
    let leader = cluster.leader().await;
    let client = cluster.client(leader).deadline(AT_ONCE);
    client.grant(7, 600).await.expect("a lease");
    let rest = cluster.others(leader);
    cluster.network().divide(&[leader], &rest, Link::Held);
    let told = client.time_to_live(7).await.expect("at once");
    assert_eq!(told.granted_ttl, 600);
    assert!((1..=600).contains(&told.ttl), "{told:?}");
    let put = client.put("k", "v").await;
    assert!(put.is_err(), "a quorum could be reached: {put:?}");
}

/// A member without a quorum refuses each kind of request in its own way, in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_a_quorum_refuses_in_time() {
    let cluster = cluster().await;
    let leader = cluster.leader().await;
    let lonely = (leader + 1) % 3;
    let client = cluster.client(lonely);
    client.put("k", "v").await.expect("a put");
    client.grant(7, 600).await.expect("a lease");
    cluster.agree().await;
    let mut silent = client.watch("k", 0);
    events_created(&mut silent).await;
    let mut told = client.clone().metadata(needs_leader()).watch("k", 0);
    events_created(&mut told).await;
    let rest = cluster.others(lonely);
    cluster.network().divide(&[lonely], &rest, Link::Cut);
    lost_leader(&cluster, lonely).await;
    let lost = Instant::now();
    tokio::join!(
        refuses_writes(&client),
        refuses_reads(&client),
        refuses_leases(&client),
        refuses_recipes(&client, 7),
        refuses_changes(&client, cluster.member(lonely).id()),
        waits_with_removals(&client),
        serves_what_it_has(&client),
        ends_streams(&client, &mut told),
    );
    println!(
        "all refused {:.1} s after the leader was lost",
        seconds_since(lost)
    );
    cluster.network().heal();
    cluster.leader().await;
    let revision = cluster.eventually_put(lonely, "k", "after").await;
    // The watch that did not ask for a leader goes on where it was.
    let seen = events(&mut silent, 1).await;
    assert_eq!(seen, [(revision, "k".to_owned(), true)]);
    cluster.agree().await;
}

async fn events_created(watch: &mut ringd_tests::transport::Stream) {
    let created = watch.next(PATIENCE).await.expect("an answer in time");
    created.expect("a watch");
}

async fn refuses_writes(client: &Client) {
    let expected = proposal_without_leader();
    let compact = pb::CompactionRequest {
        revision: 2,
        physical: false,
    };
    let alarm = pb::AlarmRequest::default();
    let leader = client.clone().metadata(needs_leader());
    tokio::join!(
        refused("a put", client.put("k", "w"), expected.clone(), T + SLACK),
        refused("a grant", client.grant(8, 60), expected.clone(), T + SLACK),
        refused(
            "a revocation",
            client.revoke(7),
            expected.clone(),
            T + SLACK
        ),
        refused(
            "a compaction",
            client.ask::<_, pb::CompactionResponse>("KV/Compact", &compact),
            expected.clone(),
            T + SLACK
        ),
        refused(
            "the alarms",
            client.ask::<_, pb::AlarmResponse>("Maintenance/Alarm", &alarm),
            expected.clone(),
            T + SLACK
        ),
        refused(
            "a put that needs a leader",
            leader.put("k", "w"),
            vec![no_leader()],
            AT_ONCE
        ),
    );
}

async fn refuses_reads(client: &Client) {
    let expected = timed_out();
    let leader = client.clone().metadata(needs_leader());
    tokio::join!(
        refused("a read", client.get("k"), expected.clone(), 2 * T + SLACK),
        refused(
            "the members",
            client.members(true),
            expected.clone(),
            2 * T + SLACK
        ),
        refused(
            "a read that needs a leader",
            leader.get("k"),
            vec![no_leader()],
            AT_ONCE
        ),
    );
}

async fn refuses_leases(client: &Client) {
    tokio::join!(
        refused(
            "a keep-alive",
            client.keep_alive(7),
            vec![no_leader()],
            T + SLACK
        ),
        refused(
            "a time to live",
            client.time_to_live(7),
            vec![no_leader()],
            T + SLACK
        ),
    );
}

async fn recipe_refused<Q: prost::Message>(client: &Client, path: &str, request: Q) {
    let answer = client.call::<Q, pb::ResponseHeader>(path, &request);
    refused(path, answer, proposal_without_leader(), T + SLACK).await;
}

/// The recipes pass on what became of the writes that they are made of, a time limit of the server's with its code.
async fn refuses_recipes(client: &Client, lease: i64) {
    let name = bytes::Bytes::from_static(b"name");
    let lock = |lease| lock::LockRequest {
        name: name.clone(),
        lease,
    };
    let unlock = lock::UnlockRequest { key: name.clone() };
    let campaign = election::CampaignRequest {
        name: name.clone(),
        lease,
        value: name.clone(),
    };
    let leader = Some(election::LeaderKey {
        name: name.clone(),
        key: name.clone(),
        rev: 1,
        lease,
    });
    let proclaim = election::ProclaimRequest {
        leader: leader.clone(),
        value: name.clone(),
    };
    let resign = election::ResignRequest { leader };
    tokio::join!(
        recipe_refused(client, "/v3lockpb.Lock/Lock", lock(lease)),
        recipe_refused(client, "/v3lockpb.Lock/Lock", lock(0)),
        recipe_refused(client, "/v3lockpb.Lock/Unlock", unlock),
        recipe_refused(client, "/v3electionpb.Election/Campaign", campaign),
        recipe_refused(client, "/v3electionpb.Election/Proclaim", proclaim),
        recipe_refused(client, "/v3electionpb.Election/Resign", resign),
    );
}

async fn refuses_changes(client: &Client, own: u64) {
    let unhealthy = refusal(UNAVAILABLE, "etcdserver: unhealthy cluster");
    let not_leader = refusal(FAILED_PRECONDITION, "etcdserver: not leader");
    let nobody = "http://127.0.0.1:1";
    tokio::join!(
        refused(
            "an addition",
            client.member_add(nobody, false),
            vec![unhealthy],
            AT_ONCE
        ),
        refused(
            "a transfer",
            client.move_leader(own),
            vec![not_leader],
            AT_ONCE
        ),
        refused(
            "a promotion",
            client.member_promote(own),
            vec![no_leader()],
            T + SLACK
        ),
    );
}

/// Nothing bounds a change of members but the client's own patience: whom there is to remove is for the log to tell.
async fn waits_with_removals(client: &Client) {
    const UNKNOWN: u64 = 5;
    let patience = T + AT_ONCE;
    let started = Instant::now();
    let client = client.clone().deadline(patience);
    let answer = client.member_remove(UNKNOWN).await;
    let refusal = answer.expect_err("a removal without a quorum");
    assert_eq!(refusal.code, DEADLINE_EXCEEDED, "{refusal:?}");
    let took = started.elapsed();
    assert!(took > T, "{refusal:?} after {took:?}");
}

async fn serves_what_it_has(client: &Client) {
    let started = Instant::now();
    assert_eq!(client.get_serializable("k").await, Ok(Some("v".to_owned())));
    let status = client.status().await.expect("a status");
    assert_eq!(
        (status.leader, status.errors),
        (0, vec![no_leader().message])
    );
    assert_eq!(client.members(false).await.expect("the members").len(), 3);
    client.hash_kv(0).await.expect("a hash");
    let leases: pb::LeaseLeasesResponse = client
        .ask("Lease/LeaseLeases", &pb::LeaseLeasesRequest {})
        .await
        .expect("the leases");
    assert_eq!(leases.leases.len(), 1);
    let took = started.elapsed();
    assert!(took < AT_ONCE, "what needs no leader took {took:?}");
}

/// Streams that asked for a leader end three election timeouts after it was lost; new ones are refused.
async fn ends_streams(client: &Client, told: &mut ringd_tests::transport::Stream) {
    let end = told.next(Duration::from_secs(5) + SLACK).await;
    assert_eq!(end.expect("the stream ends in time"), Err(no_leader()));
    let mut late = client.clone().metadata(needs_leader()).watch("k", 0);
    assert_eq!(late.next(AT_ONCE).await.expect("an end"), Err(no_leader()));
}

/// Two members do not hear each other, the third hears both: one leader stays, and its side of the cluster serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_pair_may_be_cut() {
    let cluster = cluster().await;
    let load = load(&cluster);
    let register = Register::start(cluster.clients());
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        cluster.network().between(a, b, Link::Cut);
        load.progress(40).await;
        pause_ms(1500).await;
        load.progress(40).await;
        cluster.network().heal();
        cluster.leader().await;
    }
    register.stop().await;
    settle(&cluster, load).await;
}

/// A leader or a follower that is heard and hears nothing, or the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_way_may_be_cut() {
    let cluster = cluster().await;
    let load = load(&cluster);
    let register = Register::start(cluster.clients());
    for (leads, mute) in [(true, true), (true, false), (false, true), (false, false)] {
        let leader = cluster.leader().await;
        let victim = match leads {
            true => leader,
            false => (leader + 1) % 3,
        };
        let rest = cluster.others(victim);
        for other in &rest {
            match mute {
                true => cluster.network().set(victim, *other, Link::Held),
                false => cluster.network().set(*other, victim, Link::Held),
            }
        }
        let cut = Instant::now();
        cluster.leader_of(&rest).await;
        for index in &rest {
            cluster.eventually_put(*index, "during", "v").await;
        }
        let what = if mute { "mute" } else { "deaf" };
        println!(
            "leads {leads}, {what}: both others write after {:.1} s",
            seconds_since(cut)
        );
        pause_ms(1000).await;
        load.progress(20).await;
        cluster.network().heal();
        cluster.leader().await;
    }
    register.stop().await;
    settle(&cluster, load).await;
}

/// Everything between members takes time, more than a heartbeat; then a leader's words are held and arrive when another
/// leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_messages_do_no_harm() {
    let cluster = cluster().await;
    let load = load(&cluster);
    let register = Register::start(cluster.clients());
    for ms in [20, 150] {
        for (a, b) in [(0, 1), (1, 2), (0, 2)] {
            cluster
                .network()
                .between(a, b, Link::Late(Duration::from_millis(ms)));
        }
        load.progress(20).await;
    }
    cluster.network().heal();
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let rest = cluster.others(leader);
        load.progress(20).await;
        cluster.network().divide(&[leader], &rest, Link::Held);
        cluster.leader_of(&rest).await;
        load.progress(20).await;
        cluster.network().heal();
        cluster.leader().await;
    }
    let reads: Vec<_> = (0..3).map(|m| register.reads(m)).collect();
    eventually("reads on all", || {
        (0..3).all(|m| register.reads(m) > reads[m] + 5)
    })
    .await;
    register.stop().await;
    settle(&cluster, load).await;
}

/// Any link in any state, for a while, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_in_a_network_that_keeps_breaking() {
    let mut rng = StdRng::seed_from_u64(seed(41));
    let cluster = cluster().await;
    let load = load(&cluster);
    let register = Register::start(cluster.clients());
    for _ in 0..cycles("RINGD_PARTITION_CYCLES", 8) {
        for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
            let link = match rng.random_range(0..8) {
                0 => Link::Cut,
                1 => Link::Held,
                2 => Link::Late(Duration::from_millis(rng.random_range(1..200))),
                _ => Link::Open,
            };
            cluster.network().set(from, to, link);
        }
        for_a_while(&mut rng, 100..2000).await;
        if rng.random() {
            cluster.network().heal();
            cluster.leader().await;
            load.progress(20).await;
        }
    }
    cluster.network().heal();
    cluster.leader().await;
    load.progress(20).await;
    register.stop().await;
    settle(&cluster, load).await;
}
