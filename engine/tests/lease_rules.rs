//! Leases behave as etcd's: grants, renewals, remaining time, expiry, changes of leader.

use engine::lease::{
    min_ttl_seconds, CheckpointConfig, Config, GrantError, LeaseRecord, Lessor, Renewal,
    TimeToLive, CHECKPOINTS_PER_ENTRY_MAX, CHECKPOINT_INTERVAL_DEFAULT_NS, EXPIRY_PASS_INTERVAL_NS,
    EXPIRY_PASS_LEASES_MAX, PILE_UP_PER_SECOND_MAX, RENEW_WAITERS_MAX, REVOKES_IN_FLIGHT_MAX,
    TTL_MAX_SECONDS,
};

const SECOND: u64 = 1_000_000_000;
const ELECTION: u64 = SECOND;

fn config() -> Config {
    Config {
        min_ttl_seconds: 2,
        revoke_retry_ns: 7 * SECOND,
        drift_bound_ppm: 0,
        checkpoint: None,
    }
}

fn primary() -> Lessor {
    let mut lessor = Lessor::new(config());
    lessor.promote(0, ELECTION);
    lessor
}

fn remaining(lessor: &Lessor, id: i64, now_ns: u64) -> i64 {
    lessor
        .time_to_live(id, now_ns)
        .expect("a known lease")
        .remaining_seconds
}

fn answers(lessor: &mut Lessor) -> Vec<(u64, Renewal)> {
    let mut out = Vec::new();
    lessor.take_answers(&mut out);
    out
}

#[test]
fn the_smallest_ttl_follows_the_election_timeout() {
    let ms = 1_000_000;
    assert_eq!(min_ttl_seconds(10, 100 * ms), 2);
    assert_eq!(min_ttl_seconds(5, 10 * ms), 1);
    // 3 * 5 / 2 ticks, rounded down, are 7: exactly 7 s, not 7.5.
    assert_eq!(min_ttl_seconds(5, SECOND), 7);
    assert_eq!(min_ttl_seconds(100, 500 * ms), 75);
    assert_eq!(min_ttl_seconds(u64::MAX, u64::MAX), TTL_MAX_SECONDS);
}

#[test]
fn grants_raise_small_ttls_and_refuse_large_ones_before_known_ids() {
    let mut lessor = primary();
    for (id, ttl, effective) in [
        (100, 0, 2),
        (99, -1, 2),
        (98, i64::MIN, 2),
        (101, 1, 2),
        (102, 2, 2),
        (103, 3, 3),
        (500, TTL_MAX_SECONDS, TTL_MAX_SECONDS),
        (-77, 60, 60),
        (i64::MIN, 60, 60),
        (i64::MAX, 60, 60),
    ] {
        assert_eq!(lessor.grant(id, ttl, 0), Ok(effective), "id {id}");
    }
    assert_eq!(lessor.grant(100, 50, 0), Err(GrantError::Exists));
    assert_eq!(
        lessor.grant(501, TTL_MAX_SECONDS + 1, 0),
        Err(GrantError::TtlTooLarge)
    );
    assert_eq!(lessor.grant(100, i64::MAX, 0), Err(GrantError::TtlTooLarge));
    assert_eq!(lessor.grant(0, 5, 0), Err(GrantError::NoId));
    assert_eq!(lessor.len(), 10);
    let record = lessor.record(103).unwrap();
    assert_eq!(
        (record.id, record.ttl_seconds, record.remaining_seconds),
        (103, 3, 0)
    );
}

#[test]
fn revocations_happen_once() {
    let mut lessor = primary();
    lessor.grant(5, 10, 0).unwrap();
    assert!(!lessor.revoke(6) && !lessor.revoke(0));
    assert!(lessor.revoke(5));
    assert!(!lessor.revoke(5));
    assert_eq!(lessor.time_to_live(5, 0), None);
    assert_eq!(lessor.renew(5, 1, 0), Renewal::Unknown);
    assert_eq!(lessor.record(5), None);
}

#[test]
fn remaining_time_is_truncated_toward_zero_and_may_be_negative() {
    let mut lessor = primary();
    lessor.grant(1, 3, 0).unwrap();
    for (now_ns, seconds) in [
        (0, 3),
        (1, 2),
        (SECOND * 5 / 2, 0),
        (3 * SECOND, 0),
        (SECOND * 7 / 2, 0),
        (4 * SECOND, -1),
        (SECOND * 11 / 2, -2),
    ] {
        assert_eq!(remaining(&lessor, 1, now_ns), seconds, "at {now_ns}");
    }
    let expected = TimeToLive {
        granted_seconds: 3,
        remaining_seconds: 1,
    };
    assert_eq!(lessor.time_to_live(1, SECOND * 3 / 2), Some(expected));
}

#[test]
fn a_renewal_grants_the_full_ttl_again() {
    let mut lessor = primary();
    lessor.grant(1, 10, 0).unwrap();
    assert_eq!(
        lessor.renew(1, 0, 9 * SECOND),
        Renewal::Renewed { ttl_seconds: 10 }
    );
    assert_eq!(remaining(&lessor, 1, 9 * SECOND), 10);
    assert_eq!(lessor.renew(0, 0, 0), Renewal::Unknown);
}

#[test]
fn extreme_ttls_and_clocks_do_not_overflow() {
    let far = u64::MAX - 1;
    let mut lessor = Lessor::open(
        config(),
        [(1, i64::MAX), (2, i64::MIN), (3, TTL_MAX_SECONDS)].map(|(id, ttl_seconds)| LeaseRecord {
            id,
            ttl_seconds,
            remaining_seconds: 0,
        }),
    );
    lessor.promote(far, u64::MAX);
    assert!(remaining(&lessor, 1, 0) > 0);
    assert_eq!(
        lessor.renew(3, 0, far),
        Renewal::Renewed {
            ttl_seconds: TTL_MAX_SECONDS
        }
    );
    assert!(lessor.take_expired(far, 10).is_empty());
    assert!(lessor.deadline_ns().is_some());
    assert!(remaining(&lessor, 3, u64::MAX) <= 0);
}

#[test]
fn a_secondary_knows_no_time() {
    let mut lessor = Lessor::new(config());
    lessor.grant(9, 2, 0).unwrap();
    lessor.grant(4, 5, 0).unwrap();
    assert_eq!(lessor.renew(9, 1, 0), Renewal::NotPrimary);
    assert!(lessor.take_expired(u64::MAX, 100).is_empty());
    assert_eq!(lessor.deadline_ns(), None);
    assert_eq!(lessor.leases_by_remaining().collect::<Vec<_>>(), [4, 9]);
    assert_eq!(remaining(&lessor, 9, 1_000_000 * SECOND), 9_223_372_036);
}

#[test]
fn leases_are_listed_by_remaining_time() {
    let mut lessor = primary();
    for (id, ttl) in [(5, 500), (3, 900), (9, 100), (-4, 300), (1, 700), (8, 200)] {
        lessor.grant(id, ttl, 0).unwrap();
    }
    let list = |lessor: &Lessor| lessor.leases_by_remaining().collect::<Vec<_>>();
    assert_eq!(list(&lessor), [9, 8, -4, 5, 1, 3]);
    lessor.revoke(-4);
    assert_eq!(list(&lessor), [9, 8, 5, 1, 3]);
    lessor.renew(9, 0, 150 * SECOND / 2);
    assert_eq!(list(&lessor), [9, 8, 5, 1, 3]);
    lessor.renew(9, 0, 99 * SECOND + 75 * SECOND);
    assert_eq!(list(&lessor), [8, 9, 5, 1, 3]);
}

#[test]
fn passes_come_every_half_second_and_are_bounded() {
    let mut lessor = primary();
    for id in 1..=1200 {
        lessor.grant(id, 2, 0).unwrap();
    }
    // The leases end at 2 s, which is a pass. Nothing before.
    assert_eq!(lessor.deadline_ns(), Some(2 * SECOND));
    assert!(lessor.take_expired(2 * SECOND - 1, 1000).is_empty());
    let mut handed_out = 0;
    for _ in 0..EXPIRY_PASS_LEASES_MAX.div_ceil(REVOKES_IN_FLIGHT_MAX) {
        let batch = lessor.take_expired(2 * SECOND, 1000);
        assert!(batch.len() <= REVOKES_IN_FLIGHT_MAX);
        // As long as none has an outcome, no more are handed out.
        assert!(
            lessor.take_expired(2 * SECOND, 1000).is_empty() || batch.len() < REVOKES_IN_FLIGHT_MAX
        );
        handed_out += batch.len();
        for id in batch {
            assert!(lessor.revoke(id));
        }
    }
    assert_eq!(handed_out, EXPIRY_PASS_LEASES_MAX);
    assert!(lessor
        .take_expired(2 * SECOND + EXPIRY_PASS_INTERVAL_NS - 1, 1000)
        .is_empty());
    assert_eq!(
        lessor.deadline_ns(),
        Some(2 * SECOND + EXPIRY_PASS_INTERVAL_NS)
    );
    assert!(!lessor
        .take_expired(2 * SECOND + EXPIRY_PASS_INTERVAL_NS, 1000)
        .is_empty());
}

#[test]
fn a_pass_takes_only_what_had_expired_when_it_began() {
    let mut lessor = primary();
    lessor.grant(1, 2, 0).unwrap();
    lessor.grant(2, 2, 1).unwrap();
    assert_eq!(lessor.take_expired(2 * SECOND + 5, 10), [1]);
    assert_eq!(
        lessor.deadline_ns(),
        Some(2 * SECOND + EXPIRY_PASS_INTERVAL_NS)
    );
    assert_eq!(lessor.take_expired(5 * SECOND / 2, 10), [2]);
}

#[test]
fn a_lost_revocation_is_proposed_again() {
    let mut lessor = primary();
    lessor.grant(1, 2, 0).unwrap();
    assert_eq!(lessor.take_expired(2 * SECOND, 10), [1]);
    assert_eq!(lessor.deadline_ns(), Some(9 * SECOND));
    assert!(lessor.take_expired(9 * SECOND - 1, 10).is_empty());
    assert_eq!(lessor.take_expired(9 * SECOND, 10), [1]);
    // Known to be dropped: the next pass proposes it again.
    lessor.revoke_dropped(1);
    assert!(lessor.take_expired(9 * SECOND, 10).is_empty());
    assert_eq!(
        lessor.take_expired(9 * SECOND + EXPIRY_PASS_INTERVAL_NS, 10),
        [1]
    );
}

#[test]
fn a_dropped_revocation_that_happens_after_all_makes_room() {
    let mut lessor = primary();
    for id in 1..=20 {
        lessor.grant(id, 2, 0).unwrap();
    }
    let batch = lessor.take_expired(2 * SECOND, 100);
    assert_eq!(batch.len(), REVOKES_IN_FLIGHT_MAX);
    lessor.revoke_dropped(batch[0]);
    assert!(lessor.take_expired(2 * SECOND, 100).is_empty());
    lessor.revoke(batch[0]);
    assert_eq!(lessor.take_expired(2 * SECOND, 100).len(), 1);
}

#[test]
fn keep_alives_of_an_expired_lease_wait_for_its_end() {
    let mut lessor = primary();
    lessor.grant(1, 2, 0).unwrap();
    assert_eq!(lessor.renew(1, 71, 2 * SECOND), Renewal::Pending);
    assert_eq!(lessor.take_expired(2 * SECOND, 10), [1]);
    assert_eq!(lessor.renew(1, 72, 2 * SECOND), Renewal::Pending);
    assert!(answers(&mut lessor).is_empty());
    lessor.revoke(1);
    assert_eq!(
        answers(&mut lessor),
        [(71, Renewal::Unknown), (72, Renewal::Unknown)]
    );
    assert!(answers(&mut lessor).is_empty());
}

#[test]
fn keep_alives_that_wait_are_sent_elsewhere_when_leadership_is_lost() {
    let mut lessor = primary();
    lessor.grant(1, 2, 0).unwrap();
    assert_eq!(lessor.renew(1, 71, 3 * SECOND), Renewal::Pending);
    lessor.demote();
    assert_eq!(answers(&mut lessor), [(71, Renewal::NotPrimary)]);
    // The revocation that comes later has nobody left to tell.
    lessor.revoke(1);
    assert!(answers(&mut lessor).is_empty());
}

#[test]
fn a_proposed_revocation_stops_renewals() {
    let mut lessor = primary();
    lessor.grant(1, 100, 0).unwrap();
    lessor.revoke_proposed(1);
    assert_eq!(lessor.renew(1, 5, 0), Renewal::Pending);
    lessor.revoke_dropped(1);
    assert_eq!(answers(&mut lessor), [(5, Renewal::Busy)]);
    assert_eq!(lessor.renew(1, 6, 0), Renewal::Renewed { ttl_seconds: 100 });
}

#[test]
fn waiting_keep_alives_are_bounded() {
    let mut lessor = primary();
    lessor.grant(1, 2, 0).unwrap();
    for token in 0..RENEW_WAITERS_MAX as u64 {
        assert_eq!(lessor.renew(1, token, 2 * SECOND), Renewal::Pending);
    }
    assert_eq!(lessor.renew(1, 0, 2 * SECOND), Renewal::Busy);
    lessor.revoke(1);
    assert_eq!(answers(&mut lessor).len(), RENEW_WAITERS_MAX);
}

#[test]
fn a_new_leader_grants_everything_again_plus_an_election_timeout() {
    let mut lessor = primary();
    lessor.grant(1, 10, 0).unwrap();
    lessor.grant(2, 20, 0).unwrap();
    lessor.checkpoint(2, 5);
    lessor.demote();
    lessor.promote(9 * SECOND, ELECTION);
    assert_eq!(remaining(&lessor, 1, 9 * SECOND), 11);
    assert_eq!(remaining(&lessor, 2, 9 * SECOND), 6);
    // Being promoted again grants again.
    lessor.promote(12 * SECOND, ELECTION);
    assert_eq!(remaining(&lessor, 1, 12 * SECOND), 11);
}

#[test]
fn a_pile_of_deadlines_is_spread() {
    let count = 5000;
    let records = (1..=count).map(|id| LeaseRecord {
        id,
        // Two piles, one second apart, and a few far away.
        ttl_seconds: if id % 100 == 0 {
            1000 + id
        } else {
            60 + id % 2
        },
        remaining_seconds: 0,
    });
    let mut lessor = Lessor::open(config(), records);
    lessor.promote(0, ELECTION);
    let mut passes = 0;
    let mut now_ns = 0;
    let mut per_second = std::collections::BTreeMap::<u64, usize>::new();
    let ids: Vec<i64> = lessor.leases_by_remaining().collect();
    for id in ids {
        let left = lessor.time_to_live(id, 0).unwrap();
        assert!(
            left.remaining_seconds > left.granted_seconds,
            "only ever delayed"
        );
        if id % 100 != 0 {
            *per_second.entry(left.remaining_seconds as u64).or_default() += 1;
        } else {
            assert_eq!(left.remaining_seconds, left.granted_seconds + 1);
        }
    }
    assert!(per_second
        .values()
        .all(|&count| count <= PILE_UP_PER_SECOND_MAX));
    assert_eq!(per_second.len(), 4950usize.div_ceil(PILE_UP_PER_SECOND_MAX));
    while lessor.len() > 50 {
        now_ns += EXPIRY_PASS_INTERVAL_NS;
        passes += 1;
        loop {
            let expired = lessor.take_expired(now_ns, 100);
            if expired.is_empty() {
                break;
            }
            for id in expired {
                lessor.revoke(id);
            }
        }
        assert!(passes < 1000);
    }
    // The last of the pile was due a few seconds after the first, and no backlog had built up.
    assert!(now_ns <= (61 + 7 + 1) * SECOND);
}

#[test]
fn fewer_leases_are_not_spread() {
    let records = (1..=999).map(|id| LeaseRecord {
        id,
        ttl_seconds: 60,
        remaining_seconds: 0,
    });
    let mut lessor = Lessor::open(config(), records);
    lessor.promote(0, ELECTION);
    assert!((1..=999).all(|id| remaining(&lessor, id, 0) == 61));
}

#[test]
fn drift_bound_delays_the_end_but_not_the_told_time() {
    let mut lessor = Lessor::new(Config {
        drift_bound_ppm: 100_000,
        ..config()
    });
    lessor.promote(0, 0);
    lessor.grant(1, 20, 0).unwrap();
    assert_eq!(remaining(&lessor, 1, 0), 20);
    assert!(lessor.take_expired(21 * SECOND, 10).is_empty());
    assert_eq!(
        lessor.renew(1, 0, 21 * SECOND),
        Renewal::Renewed { ttl_seconds: 20 }
    );
    assert_eq!(lessor.take_expired(43 * SECOND, 10), [1]);
}

fn with_checkpoints() -> Lessor {
    let mut lessor = Lessor::new(Config {
        checkpoint: Some(CheckpointConfig {
            interval_ns: CHECKPOINT_INTERVAL_DEFAULT_NS,
        }),
        ..config()
    });
    lessor.promote(0, ELECTION);
    lessor
}

#[test]
fn long_leases_are_checkpointed_every_interval() {
    let mut lessor = with_checkpoints();
    lessor.grant(1, 1000, 0).unwrap();
    lessor.grant(2, 300, 0).unwrap();
    assert_eq!(lessor.deadline_ns(), Some(300 * SECOND));
    assert!(lessor.take_checkpoints(300 * SECOND - 1, 10).is_empty());
    assert_eq!(lessor.take_checkpoints(300 * SECOND, 10), [(1, 700)]);
    assert!(lessor.take_checkpoints(300 * SECOND, 10).is_empty());
    assert!(lessor.checkpoint(1, 700) && !lessor.checkpoint(77, 1));
    assert_eq!(lessor.record(1).unwrap().remaining_seconds, 700);
    assert_eq!(lessor.take_checkpoints(600 * SECOND, 10), [(1, 400)]);
    assert_eq!(lessor.take_checkpoints(900 * SECOND, 10), [(1, 100)]);
    // With less than an interval left there are no more.
    assert!(lessor.take_checkpoints(999 * SECOND, 10).is_empty());
}

#[test]
fn a_lease_granted_anew_is_checkpointed_by_its_own_time() {
    let mut lessor = with_checkpoints();
    lessor.grant(1, 1000, 0).unwrap();
    lessor.revoke(1);
    lessor.grant(1, 1000, 200 * SECOND).unwrap();
    assert!(lessor.take_checkpoints(300 * SECOND, 10).is_empty());
    assert_eq!(lessor.take_checkpoints(500 * SECOND, 10), [(1, 700)]);
}

#[test]
fn an_extension_is_never_checkpointed() {
    let mut lessor = Lessor::new(Config {
        checkpoint: Some(CheckpointConfig {
            interval_ns: 5 * SECOND,
        }),
        ..config()
    });
    lessor.grant(1, 100, 0).unwrap();
    lessor.grant(2, 100, 0).unwrap();
    lessor.checkpoint(2, 50);
    lessor.promote(0, 10 * SECOND);
    // 105 s are left of the first, more than were granted; 55 s of the second, more than were recorded.
    assert_eq!(lessor.take_checkpoints(5 * SECOND, 10), [(2, 50)]);
    assert_eq!(lessor.take_checkpoints(15 * SECOND, 10), [(1, 95), (2, 45)]);
}

#[test]
fn a_renewal_first_clears_the_checkpoint() {
    let mut lessor = with_checkpoints();
    lessor.grant(1, 1000, 0).unwrap();
    lessor.checkpoint(1, 700);
    assert_eq!(lessor.renew(1, 0, SECOND), Renewal::ClearCheckpoint);
    lessor.checkpoint(1, 0);
    assert_eq!(
        lessor.renew(1, 0, SECOND),
        Renewal::Renewed { ttl_seconds: 1000 }
    );
    assert_eq!(remaining(&lessor, 1, SECOND), 1000);
    // The next checkpoint counts from the renewal.
    assert!(lessor.take_checkpoints(300 * SECOND, 10).is_empty());
    assert_eq!(lessor.take_checkpoints(301 * SECOND, 10), [(1, 700)]);
}

#[test]
fn a_checkpoint_of_earlier_times_is_cleared_even_when_they_are_off() {
    let mut lessor = Lessor::open(
        config(),
        [LeaseRecord {
            id: 1,
            ttl_seconds: 1000,
            remaining_seconds: 10,
        }],
    );
    lessor.promote(0, 0);
    assert_eq!(remaining(&lessor, 1, 0), 10);
    assert_eq!(lessor.renew(1, 0, 0), Renewal::ClearCheckpoint);
}

#[test]
fn checkpoints_of_one_entry_are_bounded() {
    let mut lessor = with_checkpoints();
    for id in 1..=1500 {
        lessor.grant(id, 1000, 0).unwrap();
    }
    let first = lessor.take_checkpoints(300 * SECOND, usize::MAX);
    let second = lessor.take_checkpoints(300 * SECOND, usize::MAX);
    assert_eq!(
        (first.len(), second.len()),
        (CHECKPOINTS_PER_ENTRY_MAX, 500)
    );
}

#[test]
fn a_secondary_checkpoints_nothing() {
    let mut lessor = with_checkpoints();
    lessor.grant(1, 1000, 0).unwrap();
    lessor.demote();
    assert!(lessor.take_checkpoints(u64::MAX, 10).is_empty());
}

#[test]
fn a_snapshot_replaces_all_leases() {
    let mut lessor = primary();
    lessor.grant(1, 10, 0).unwrap();
    lessor.restore([LeaseRecord {
        id: 2,
        ttl_seconds: 20,
        remaining_seconds: 0,
    }]);
    assert!(!lessor.is_primary() && !lessor.contains(1) && lessor.contains(2));
}

#[test]
fn attachments_are_counted() {
    let mut lessor = primary();
    lessor.grant(1, 10, 0).unwrap();
    assert!(lessor.attach(1) && lessor.attach(1) && !lessor.attach(2));
    lessor.detach(1);
    lessor.detach(2);
    assert_eq!((lessor.attached(1), lessor.attached(2)), (1, 0));
}
