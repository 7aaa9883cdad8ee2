//! The log of one cluster beside the pages of another.

use super::super::{assemble::refuse_other_cluster, page_options, store_options};
use crate::identity::cluster_id;
use engine::{
    page::{Pages, SimFile},
    store::{MemberChange, Store},
    wal::Identity,
};
use proto::{membershippb::Member, raftpb::ConfState};
use std::sync::Arc;

/// A store in which these members were added, and then one removed.
fn store(added: &[u64], removed: Option<u64>) -> Store {
    let options = store_options(&super::config(&[]), (10, 100_000_000), 1);
    let opened = Pages::open(Arc::new(SimFile::new()), page_options(1 << 30)).unwrap();
    let mut store = Store::create(opened.pages, options);
    let changes = added.iter().map(|id| {
        let id = *id;
        MemberChange::Add(Member {
            id,
            ..Member::default()
        })
    });
    let changes = changes.chain(removed.map(|id| MemberChange::Remove { id }));
    for (change, index) in changes.zip(1..) {
        let state = ConfState::default();
        store
            .apply_conf_change(index, 1, Some(&change), state)
            .unwrap();
    }
    store
}

#[test]
fn only_a_log_that_cannot_go_with_the_pages_is_refused() {
    let founded = cluster_id(&[1]);
    let refused = |store: &Store, member_id, cluster_id| {
        let ids = Identity {
            cluster_id,
            member_id,
        };
        refuse_other_cluster(store, ids, "pages", "log").map_err(|error| error.to_string())
    };
    let alone = store(&[1], None);
    assert_eq!(refused(&alone, 1, founded), Ok(()));
    // It joined, and its own addition is not applied yet.
    assert_eq!(refused(&alone, 2, founded), Ok(()));
    assert_eq!(
        refused(&alone, 2, cluster_id(&[2])),
        Err(format!(
            "the log in log belongs to another cluster: its member 2 of cluster {:x} is none of the members in pages",
            cluster_id(&[2])
        ))
    );
    assert_eq!(refused(&store(&[], None), 2, 7), Ok(()));
    assert_eq!(refused(&store(&[1, 3], None), 2, 7), Ok(()));
    assert_eq!(refused(&store(&[1, 3], Some(3)), 2, 7), Ok(()));
    assert_eq!(refused(&store(&[1, 2], Some(2)), 2, 7), Ok(()));
}
