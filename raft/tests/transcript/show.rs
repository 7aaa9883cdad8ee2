//! Messages, states and entries in one line each.

use proto::raftpb::{ConfState, Entry, EntryType, Message, MessageType};
use raft::{ConfChange, PeerStatus, Status};

pub fn entry(entry: &Entry) -> String {
    let place = format!("{}/{}", entry.term(), entry.index());
    let what = match entry.r#type() {
        EntryType::EntryNormal if entry.data().is_empty() => return place,
        EntryType::EntryNormal => payload(entry.data()),
        kind => match ConfChange::decode(kind, entry.data()) {
            Ok(ConfChange::V1(_)) => "change".to_string(),
            Ok(ConfChange::V2(change)) if change.changes.is_empty() => "leave".to_string(),
            Ok(ConfChange::V2(_)) => "change2".to_string(),
            Err(error) => error.to_string(),
        },
    };
    format!("{place}:{what}")
}

fn payload(data: &[u8]) -> String {
    if data.len() > 24 {
        return format!("{} bytes", data.len());
    }
    String::from_utf8_lossy(data).into_owned()
}

pub fn entries(entries: &[Entry]) -> String {
    let all: Vec<String> = entries.iter().map(entry).collect();
    format!("[{}]", all.join(" "))
}

pub fn conf(state: &ConfState) -> String {
    let list = |ids: &[u64]| {
        let all: Vec<String> = ids.iter().map(u64::to_string).collect();
        all.join(" ")
    };
    let mut text = format!("({})", list(&state.voters));
    if !state.voters_outgoing.is_empty() {
        text += &format!("&&({})", list(&state.voters_outgoing));
    }
    if !state.learners.is_empty() {
        text += &format!(" learners {}", list(&state.learners));
    }
    if !state.learners_next.is_empty() {
        text += &format!(" next learners {}", list(&state.learners_next));
    }
    if state.auto_leave() {
        text += " autoleave";
    }
    text
}

pub fn message(m: &Message) -> String {
    let kind = m
        .r#type()
        .as_str_name()
        .trim_start_matches("Msg")
        .to_string();
    let mut text = format!("{}>{} {kind}", m.from(), m.to());
    if m.term() != 0 {
        text += &format!(" term={}", m.term());
    }
    match m.r#type() {
        MessageType::MsgVote | MessageType::MsgPreVote => {
            text += &format!(" last={}/{}", m.log_term(), m.index());
        }
        MessageType::MsgVoteResp | MessageType::MsgPreVoteResp => {
            text += if m.reject() { " refused" } else { " granted" };
        }
        MessageType::MsgApp => {
            text += &format!(
                " prev={}/{} {}",
                m.log_term(),
                m.index(),
                entries(&m.entries)
            );
            text += &format!(" commit={}", m.commit());
        }
        MessageType::MsgAppResp if m.reject() => {
            text += &format!(
                " rejects {} hint={}/{}",
                m.index(),
                m.log_term(),
                m.reject_hint()
            );
        }
        MessageType::MsgAppResp => text += &format!(" index={}", m.index()),
        MessageType::MsgHeartbeat => text += &format!(" commit={}", m.commit()),
        MessageType::MsgReadIndexResp => text += &format!(" index={}", m.index()),
        MessageType::MsgProp => text += &format!(" {}", entries(&m.entries)),
        MessageType::MsgSnap => {
            let snapshot = m.snapshot.clone().unwrap_or_default();
            let meta = snapshot.metadata.unwrap_or_default();
            let state = meta.conf_state.clone().unwrap_or_default();
            text += &format!(" at={}/{} {}", meta.term(), meta.index(), conf(&state));
        }
        _ => {}
    }
    match m.context() {
        b"" => {}
        b"CampaignTransfer" => text += " transfer",
        _ => text += " round",
    }
    text
}

pub fn status(status: &Status, last_term: u64) -> String {
    let mut text = format!(
        "n{} {:?} term={} vote={} leader={} commit={} applied={} last={}/{}",
        status.id,
        status.role,
        status.term,
        status.vote,
        status.leader,
        status.commit,
        status.applied,
        last_term,
        status.last
    );
    if status.transferee != 0 {
        text += &format!(" transfer to {}", status.transferee);
    }
    text
}

pub fn progress(peer: &PeerStatus) -> String {
    let mut text = format!(
        "{} {:?} match={} next={}",
        peer.id, peer.state, peer.matched, peer.next
    );
    if peer.learner {
        text += " learner";
    }
    if peer.paused {
        text += " paused";
    }
    if !peer.recent_active {
        text += " inactive";
    }
    if peer.inflight_messages > 0 {
        text += &format!(" inflight={}", peer.inflight_messages);
    }
    if peer.pending_snapshot != 0 {
        text += &format!(" pending={}", peer.pending_snapshot);
    }
    text
}
