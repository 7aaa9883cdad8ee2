//! What etcd's Raft says of elections in its log, in its words: operators search for them.

use raft::{Role, RoleChange};

#[derive(Default)]
pub(super) struct ElectionLines {
    role: Role,
    /// The leader that was last told, 0 for none.
    leader: u64,
}

impl ElectionLines {
    /// The lines about what has happened since the last call.
    pub fn news(&mut self, me: u64, changes: &[RoleChange], leader: u64, term: u64) -> Vec<String> {
        let mut lines = Vec::new();
        for &RoleChange { role, term } in changes {
            let name = match role {
                Role::Follower => "follower",
                Role::PreCandidate => "pre-candidate",
                Role::Candidate => "candidate",
                Role::Leader => "leader",
            };
            let stands = role == Role::PreCandidate
                || (role == Role::Candidate && self.role != Role::PreCandidate);
            if stands {
                let before = term - u64::from(role == Role::Candidate);
                lines.push(format!(
                    "{me:x} is starting a new election at term {before}"
                ));
            }
            lines.push(format!("{me:x} became {name} at term {term}"));
            self.role = role;
        }
        match (self.leader, leader) {
            (before, now) if before == now => {}
            (0, now) => lines.push(format!(
                "raft.node: {me:x} elected leader {now:x} at term {term}"
            )),
            (before, 0) => lines.push(format!(
                "raft.node: {me:x} lost leader {before:x} at term {term}"
            )),
            (before, now) => lines.push(format!(
                "raft.node: {me:x} changed leader from {before:x} to {now:x} at term {term}"
            )),
        }
        self.leader = leader;
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(role: Role, term: u64) -> RoleChange {
        RoleChange { role, term }
    }

    #[test]
    fn an_election_reads_as_in_etcds_log() {
        let mut lines = ElectionLines::default();
        let started = lines.news(0xa, &[change(Role::Follower, 1)], 0, 1);
        assert_eq!(started, ["a became follower at term 1"]);
        let won = [
            change(Role::PreCandidate, 1),
            change(Role::Candidate, 2),
            change(Role::Leader, 2),
        ];
        assert_eq!(
            lines.news(0xa, &won, 0xa, 2),
            [
                "a is starting a new election at term 1",
                "a became pre-candidate at term 1",
                "a became candidate at term 2",
                "a became leader at term 2",
                "raft.node: a elected leader a at term 2",
            ]
        );
        assert!(lines.news(0xa, &[], 0xa, 2).is_empty());
        assert_eq!(
            lines.news(0xa, &[change(Role::Follower, 3)], 0xb, 3),
            [
                "a became follower at term 3",
                "raft.node: a changed leader from a to b at term 3",
            ]
        );
        // Asked by its leader to take over: without the question whether it could win.
        assert_eq!(
            lines.news(0xa, &[change(Role::Candidate, 4)], 0, 4),
            [
                "a is starting a new election at term 3",
                "a became candidate at term 4",
                "raft.node: a lost leader b at term 4",
            ]
        );
    }
}
