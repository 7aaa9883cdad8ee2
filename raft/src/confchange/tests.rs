//! A1-A10: the algebra of configurations.

use super::*;
use proptest::prelude::*;
use ConfChangeType::{
    ConfChangeAddLearnerNode as Learn, ConfChangeAddNode as Add, ConfChangeRemoveNode as Remove,
    ConfChangeUpdateNode as Update,
};

fn change(transition: ConfChangeTransition, steps: &[(ConfChangeType, u64)]) -> ConfChangeV2 {
    ConfChangeV2 {
        transition: Some(transition as i32),
        changes: steps
            .iter()
            .map(|(kind, id)| ConfChangeSingle {
                r#type: Some(*kind as i32),
                node_id: Some(*id),
            })
            .collect(),
        context: None,
    }
}

fn simple(step: (ConfChangeType, u64)) -> ConfChangeV2 {
    change(ConfChangeTransition::Auto, &[step])
}

fn joint(steps: &[(ConfChangeType, u64)]) -> ConfChangeV2 {
    change(ConfChangeTransition::JointExplicit, steps)
}

fn config(voters: &[u64], learners: &[u64]) -> Configuration {
    let state = conf_state(voters, learners, &[], &[], false);
    Configuration::from_conf_state(&state).expect("valid")
}

#[test]
fn a_simple_change_alters_one_voter_at_most() {
    let one = config(&[1, 2, 3], &[]);
    let both = [(Add, 4), (Remove, 1)].map(|(kind, id)| simple((kind, id)).changes[0]);
    assert_eq!(one.simple(&both), Err(ConfChangeError::MoreThanOneVoter));
    let moved = one.apply(&simple((Add, 4))).expect("one voter");
    assert_eq!(moved, config(&[1, 2, 3, 4], &[]));
}

#[test]
fn the_last_voter_stays() {
    let one = config(&[1], &[2]);
    for kind in [Remove, Learn] {
        assert_eq!(
            one.apply(&simple((kind, 1))),
            Err(ConfChangeError::NoVoters)
        );
    }
    let none = Configuration::default();
    assert_eq!(
        none.apply(&joint(&[(Add, 1)])),
        Err(ConfChangeError::NoVoters)
    );
    assert_eq!(none.apply(&simple((Add, 1))), Ok(config(&[1], &[])));
}

#[test]
fn joint_phases_do_not_nest() {
    let leave = change(ConfChangeTransition::Auto, &[]);
    let one = config(&[1], &[]);
    assert_eq!(one.apply(&leave), Err(ConfChangeError::NotJoint));
    let inside = one.apply(&joint(&[(Add, 2)])).expect("enters");
    for transition in [
        ConfChangeTransition::JointExplicit,
        ConfChangeTransition::JointImplicit,
    ] {
        let again = change(transition, &[(Add, 3)]);
        assert_eq!(inside.apply(&again), Err(ConfChangeError::AlreadyJoint));
    }
    assert_eq!(
        inside.apply(&simple((Add, 3))),
        Err(ConfChangeError::AlreadyJoint)
    );
    assert_eq!(inside.apply(&leave), Ok(config(&[1, 2], &[])));
}

#[test]
fn a_joint_phase_may_change_nothing() {
    let inside = config(&[1], &[]).apply(&joint(&[])).expect("enters");
    assert_eq!(
        inside.to_conf_state(),
        conf_state(&[1], &[], &[1], &[], false)
    );
}

#[test]
fn changes_are_idempotent_and_zero_and_update_do_nothing() {
    let one = config(&[1, 2], &[3]);
    for step in [
        (Add, 1),
        (Learn, 3),
        (Remove, 9),
        (Update, 2),
        (Remove, 0),
        (Add, 0),
    ] {
        assert_eq!(one.apply(&simple(step)).as_ref(), Ok(&one), "{step:?}");
    }
    let steps = [
        (Add, 4),
        (Add, 4),
        (Remove, 5),
        (Learn, 6),
        (Learn, 6),
        (Update, 1),
    ];
    let inside = one.apply(&joint(&steps)).expect("enters");
    assert_eq!(
        inside.to_conf_state(),
        conf_state(&[1, 2, 4], &[3, 6], &[1, 2], &[], false)
    );
}

#[test]
fn a_voter_demoted_in_a_joint_phase_learns_when_it_ends() {
    let inside = config(&[1, 2, 3], &[])
        .apply(&joint(&[(Learn, 3), (Add, 4)]))
        .expect("enters");
    assert_eq!(
        inside.to_conf_state(),
        conf_state(&[1, 2, 4], &[], &[1, 2, 3], &[3], false)
    );
    let after = inside.leave_joint().expect("leaves");
    assert_eq!(after, config(&[1, 2, 4], &[3]));
}

#[test]
fn demotion_and_promotion_in_one_change_cancel_out() {
    let one = config(&[1, 2, 3], &[]);
    let steps = [(Learn, 3), (Add, 3)].map(|(kind, id)| simple((kind, id)).changes[0]);
    assert_eq!(one.simple(&steps), Ok(one.clone()));
}

#[test]
fn stored_nonsense_is_refused() {
    for state in [
        conf_state(&[1, 2], &[2], &[], &[], false),
        conf_state(&[1], &[], &[], &[2], false),
        conf_state(&[1], &[], &[], &[], true),
        conf_state(&[], &[], &[1], &[], false),
        conf_state(&[0, 1], &[], &[], &[], false),
        conf_state(&[1], &[], &[1, 2], &[3], false),
    ] {
        assert!(Configuration::from_conf_state(&state).is_err(), "{state:?}");
    }
}

fn any_steps() -> impl Strategy<Value = Vec<(ConfChangeType, u64)>> {
    let kind = prop::sample::select(vec![Add, Remove, Learn, Update]);
    prop::collection::vec((kind, 2u64..8), 0..8)
}

proptest! {
    /// Node 1 is a voter throughout, so that the last voter is never removed.
    #[test]
    fn entering_and_leaving_equals_one_by_one(setup in any_steps(), steps in any_steps()) {
        let mut start = config(&[1], &[]);
        for step in setup {
            start = start.apply(&simple(step)).expect("one voter at a time");
        }
        let mut single = start.clone();
        for step in &steps {
            single = single.apply(&simple(*step)).expect("one voter at a time");
        }
        let inside = start.apply(&joint(&steps)).expect("enters");
        prop_assert_eq!(inside.leave_joint(), Ok(single));
    }

    #[test]
    fn a_stored_configuration_restores_to_itself(setup in any_steps(), steps in any_steps()) {
        let mut one = config(&[1], &[]);
        for step in setup {
            one = one.apply(&simple(step)).expect("one voter at a time");
        }
        let inside = one.apply(&joint(&steps)).expect("enters");
        for each in [one, inside] {
            prop_assert_eq!(Configuration::from_conf_state(&each.to_conf_state()), Ok(each));
        }
    }
}
