//! The forty traps of the API's description, and which test covers each. A trap without tests belongs to parts of the
//! server that have none yet, and says which.

use std::path::Path;

struct Trap {
    number: u32,
    what: &'static str,
    tests: &'static [&'static str],
    missing: &'static str,
}

const fn covered(number: u32, what: &'static str, tests: &'static [&'static str]) -> Trap {
    Trap {
        number,
        what,
        tests,
        missing: "",
    }
}

const fn later(number: u32, what: &'static str, missing: &'static str) -> Trap {
    Trap {
        number,
        what,
        tests: &[],
        missing,
    }
}

const TRAPS: &[Trap] = &[
    covered(
        1,
        "header revision is the current one",
        &["services/kv.rs::range_counts_all_and_tells_the_current_revision"],
    ),
    covered(
        2,
        "sort target without order sorts within the limit",
        &["services/kv.rs::range_sorts_within_the_limit_only_if_no_order_was_named"],
    ),
    covered(
        3,
        "the full range is counted",
        &["services/kv.rs::range_counts_all_and_tells_the_current_revision"],
    ),
    covered(
        4,
        "range ends",
        &[
            "services/kv.rs::range_ends",
            "services/watch.rs::creates_that_fail_leave_the_stream_alone",
        ],
    ),
    covered(
        5,
        "compares of missing keys",
        &["services/txn.rs::a_missing_key_has_no_value_and_zero_everything_else"],
    ),
    covered(
        6,
        "compares and checks before writes",
        &[
            "services/txn.rs::all_compares_come_before_all_writes",
            "services/txn.rs::checks_happen_on_the_branch_taken_only_and_undo_everything",
        ],
    ),
    covered(
        7,
        "duplicate keys are not symmetric",
        &[
            "services/txn.rs::duplicate_keys",
            "services/txn.rs::keeping_the_value_of_a_key_just_deleted_fails_the_txn",
        ],
    ),
    covered(
        8,
        "read-only txns",
        &["services/txn.rs::reading_txns_move_no_revision"],
    ),
    covered(
        9,
        "headers inside txns",
        &["services/txn.rs::headers_of_ops_tell_the_running_revision"],
    ),
    covered(
        10,
        "removing nothing moves no revision",
        &[
            "services/kv.rs::deleting_nothing_moves_no_revision",
            "services/kv.rs::put_of_an_equal_value_is_a_write",
            "services/lease.rs::revoke_deletes_the_keys_in_one_revision",
        ],
    ),
    covered(
        11,
        "attachment and expiry",
        &[
            "services/lease.rs::a_put_moves_or_ends_the_attachment",
            "services/lease.rs::expiry_deletes_all_keys_at_once_and_not_early",
        ],
    ),
    covered(
        12,
        "unknown leases",
        &[
            "services/lease.rs::unknown_leases",
            "services/lease.rs::keep_alive_tells_the_granted_time_and_time_to_live_the_rest",
        ],
    ),
    covered(
        13,
        "shortest time to live",
        &["services/lease.rs::grant_has_a_shortest_and_a_longest_time"],
    ),
    covered(
        14,
        "keep-alive's header",
        &["services/lease.rs::keep_alive_tells_the_granted_time_and_time_to_live_the_rest"],
    ),
    covered(
        15,
        "watch ids",
        &["services/watch.rs::ids_are_chosen_or_given"],
    ),
    covered(
        16,
        "cancel by compaction",
        &["services/watch.rs::compaction_cancels_and_keeps_the_id"],
    ),
    covered(
        17,
        "watch from the compacted revision",
        &["services/watch.rs::the_compacted_revision_can_be_watched"],
    ),
    covered(
        18,
        "half-closed watch",
        &["services/watch.rs::half_closing_does_not_end_it"],
    ),
    covered(
        19,
        "progress",
        &[
            "services/watch.rs::progress_is_told_when_all_are_up_to_date",
            "services/watch.rs::progress_is_told_by_the_clock",
        ],
    ),
    covered(
        20,
        "revisions stay whole",
        &[
            "services/watch.rs::a_revision_arrives_in_one_piece",
            "recorded_sessions.rs::watch_batches",
        ],
    ),
    covered(
        21,
        "previous values in events",
        &["services/watch.rs::the_value_before_is_told_where_there_was_one"],
    ),
    covered(
        22,
        "cancel reasons",
        &["services/watch.rs::creates_that_fail_leave_the_stream_alone"],
    ),
    covered(
        23,
        "headers that are absent",
        &[
            "services/maintenance.rs::defragment_and_move_leader_have_no_header",
            "services/cluster.rs::the_member_list_has_no_revision",
        ],
    ),
    covered(
        24,
        "odd codes",
        &[
            "services/lock.rs::lock_errors_have_no_code_of_their_own",
            "recorded_sessions.rs::maintenance",
        ],
    ),
    covered(
        25,
        "two limits of size",
        &[
            "services/protocol.rs::two_limits_of_size",
            "recorded_sessions.rs::limits",
        ],
    ),
    covered(
        26,
        "no space, corruption",
        &[
            "services/maintenance.rs::without_space_only_growth_is_refused",
            "services/maintenance.rs::the_alarm_of_corruption_stops_writes_only",
        ],
    ),
    covered(
        27,
        "alarms by member; texts of status",
        &["services/maintenance.rs::alarms_are_raised_listed_and_lifted_by_member"],
    ),
    later(28, "simple tokens", "authentication"),
    later(29, "permissions of txns and watches", "authentication"),
    later(30, "permissions of ranges", "authentication"),
    later(31, "zero values in JSON", "the JSON gateway"),
    later(32, "base64 in JSON", "the JSON gateway"),
    later(33, "route names", "the JSON gateway"),
    later(34, "CORS and host names", "the JSON gateway"),
    later(35, "bodies of health checks", "HTTP health checks"),
    later(36, "HTTP/2 on the plain port", "the JSON gateway"),
    covered(
        37,
        "leases at a change of leader",
        &[
            "cluster/pauses.rs::no_lease_ends_early_when_its_leader_stood_still",
            "cluster/service.rs::a_new_leader_gives_each_lease_its_full_time",
        ],
    ),
    covered(
        38,
        "input that a real etcd dies of",
        &[
            "services/kv.rs::range_survives_an_unknown_sort_target",
            "services/maintenance.rs::unknown_alarms_are_errors",
        ],
    ),
    covered(
        39,
        "member ids of forwarded calls",
        &["cluster/service.rs::the_member_that_was_asked_signs_the_answer"],
    ),
    covered(
        40,
        "learners",
        &["cluster/membership.rs::a_learner_learns_and_is_promoted_under_load"],
    ),
];

/// Every trap is in the table once, and every test that it names is there.
#[test]
fn every_trap_is_covered_or_accounted_for() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (index, trap) in TRAPS.iter().enumerate() {
        assert_eq!(trap.number as usize, index + 1);
        assert_eq!(
            trap.tests.is_empty(),
            !trap.missing.is_empty(),
            "{}",
            trap.what
        );
        for test in trap.tests {
            let (file, name) = test.split_once("::").expect("FILE::TEST");
            let source = std::fs::read_to_string(tests.join(file)).expect("a test file");
            let there = source.contains(&format!("fn {name}("))
                || source.contains(&format!("    {name}: "));
            assert!(there, "trap {}: no test {test}", trap.number);
        }
    }
    assert_eq!(TRAPS.len(), 40);
}
