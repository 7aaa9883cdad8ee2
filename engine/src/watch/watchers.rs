//! The table of watchers: 40 bytes each, addressed by number.

pub(super) const NIL: u32 = u32::MAX;

pub(super) const NO_PUT: u8 = 1;
pub(super) const NO_DELETE: u8 = 2;
pub(super) const PREV_KV: u8 = 4;
pub(super) const FRAGMENT: u8 = 8;
pub(super) const PROGRESS: u8 = 16;
/// No event since the last tick: the next one tells the progress.
pub(super) const QUIET: u8 = 32;

/// The part of the flags that decides which bytes a watcher gets.
pub(super) const VARIANT_MASK: u8 = NO_PUT | NO_DELETE | PREV_KV;
pub(super) const VARIANTS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// Has everything up to the hub's revision; in the list of its target.
    Synced,
    /// Behind, and in the set that `catch_up` chooses from.
    Ready,
    /// Behind, and its stream takes nothing now; in the stream's own set.
    Held,
    /// Member of the running scan, in the class of index `before`.
    Scanning,
    /// Told that its revisions are gone; only occupies its id until the client cancels it.
    Compacted,
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) id: i64,
    /// While behind: the next revision to read. While synced: the start revision asked for if that is in the future (or was),
    /// otherwise 0.
    pub(super) next: i64,
    pub(super) stream: u32,
    pub(super) target: u32,
    pub(super) before: u32,
    pub(super) after: u32,
    pub(super) flags: u8,
    pub(super) state: State,
}

const _: () = assert!(std::mem::size_of::<Watcher>() == 40);

impl Watcher {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn variant(&self) -> usize {
        usize::from(self.flags & VARIANT_MASK)
    }
}

#[derive(Debug, Default)]
pub(super) struct Watchers {
    table: Vec<Watcher>,
    free: Vec<u32>,
}

impl Watchers {
    pub(super) fn get(&self, at: u32) -> &Watcher {
        &self.table[at as usize]
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut Watcher {
        &mut self.table[at as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.table.len() - self.free.len()
    }

    pub(super) fn add(&mut self, watcher: Watcher) -> u32 {
        match self.free.pop() {
            Some(at) => {
                debug_assert_eq!(self.get(at).state, State::Free);
                self.table[at as usize] = watcher;
                at
            }
            None => {
                self.table.push(watcher);
                (self.table.len() - 1) as u32
            }
        }
    }

    pub(super) fn remove(&mut self, at: u32) {
        self.get_mut(at).state = State::Free;
        self.free.push(at);
    }

    /// Numbers of the watchers in `state`.
    pub(super) fn in_state(&self, state: State) -> Vec<u32> {
        let all = self.table.iter().zip(0u32..);
        all.filter(|(watcher, _)| watcher.state == state)
            .map(|(_, at)| at)
            .collect()
    }
}
