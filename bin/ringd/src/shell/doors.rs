//! How many connections are let in at once, per port.

use crate::{descriptors::Shares, server::Port};
use std::task::Waker;

/// Counts connections from their accept until their descriptor is free again.
pub struct Doors {
    clients: Door,
    peers: Door,
}

struct Door {
    open: usize,
    max: usize,
    /// Listeners of the port that wait for somebody to leave: at most one entry for each.
    waiting: Vec<Waker>,
}

impl Door {
    fn new(max: usize) -> Door {
        Door {
            open: 0,
            max,
            waiting: Vec::new(),
        }
    }
}

impl Doors {
    pub fn new(shares: Shares) -> Doors {
        Doors {
            clients: Door::new(shares.clients),
            peers: Door::new(shares.peers),
        }
    }

    fn door(&mut self, port: Port) -> &mut Door {
        match port {
            Port::Client => &mut self.clients,
            Port::Peer => &mut self.peers,
        }
    }

    /// Whether one more may be accepted; if not, the waker is called when somebody leaves. Listeners that were told so at
    /// once may pass the bound by one each, which the reserve covers.
    pub fn has_room(&mut self, port: Port, waker: &Waker) -> bool {
        let door = self.door(port);
        if door.open < door.max {
            return true;
        }
        if !door.waiting.iter().any(|known| known.will_wake(waker)) {
            door.waiting.push(waker.clone());
        }
        false
    }

    pub fn enter(&mut self, port: Port) {
        self.door(port).open += 1;
    }

    pub fn leave(&mut self, port: Port) {
        let door = self.door(port);
        door.open -= 1;
        for waiting in door.waiting.drain(..) {
            waiting.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    };

    #[derive(Default)]
    struct Calls(AtomicUsize);

    impl std::task::Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_leaves_makes_room_at_the_same_door() {
        let mut doors = Doors::new(Shares {
            clients: 2,
            peers: 20,
        });
        let calls = Arc::new(Calls::default());
        let waker = Waker::from(calls.clone());
        for _ in 0..2 {
            assert!(doors.has_room(Port::Client, &waker));
            doors.enter(Port::Client);
        }
        // Asked twice, woken once.
        assert!(!doors.has_room(Port::Client, &waker));
        assert!(!doors.has_room(Port::Client, &waker));
        assert!(doors.has_room(Port::Peer, &waker));
        doors.enter(Port::Peer);
        doors.leave(Port::Peer);
        assert_eq!(calls.0.load(Ordering::Relaxed), 0);
        doors.leave(Port::Client);
        assert_eq!(calls.0.load(Ordering::Relaxed), 1);
        assert!(doors.has_room(Port::Client, &waker));
    }
}
