//! The way to the end of a member that was asked to stop.
//!
//! What a client has sent before it heard of the stop is answered: a write that is done, and whose client is told that it
//! may not be, costs somebody a search. So the calls in flight come to their end first. Then another member leads, and
//! whatever may go on for ever is ended.

use super::{Core, Shell};
use crate::member::Input;
use std::time::{Duration, Instant};

/// How long calls in flight may take, and how long answers may take to leave.
const STOP_DEADLINE: Duration = Duration::from_secs(2);
/// How often a stop looks how far it is.
const STOP_POLL: Duration = Duration::from_millis(1);

impl Shell {
    /// Lets the calls in flight finish and another member lead, ends the other calls, lets the answers leave, and closes.
    pub(super) async fn stop(&mut self, next_pulse_ns: &mut u64) {
        self.core.borrow_mut().server.shutdown();
        self.turn_until(next_pulse_ns, STOP_DEADLINE, |core| core.server.is_quiet())
            .await;
        {
            let mut core = self.core.borrow_mut();
            let now_ns = core.now_ns();
            core.server.complete(Input::Stop, now_ns);
        }
        // The member itself knows how long that may take.
        self.turn_until(next_pulse_ns, Duration::MAX, |core| {
            !core.server.member.is_handing_over(core.now_ns())
        })
        .await;
        {
            let stopped = engine::error::RequestError::Stopped.into();
            self.core.borrow_mut().server.end_calls(&stopped);
        }
        self.turn_until(next_pulse_ns, STOP_DEADLINE, |core| {
            let mut links = core.sockets.keys();
            links.all(|&link| core.server.is_sent(link))
        })
        .await;
        for (_, socket) in std::mem::take(&mut self.core.borrow_mut().sockets) {
            socket.shutdown();
        }
    }

    /// Goes on until the condition holds after a turn, or the time is up.
    async fn turn_until(
        &mut self,
        next_pulse_ns: &mut u64,
        patience: Duration,
        mut holds: impl FnMut(&mut Core) -> bool,
    ) {
        let begun = Instant::now();
        loop {
            self.turn(next_pulse_ns);
            self.start_tasks();
            if holds(&mut self.core.borrow_mut()) || begun.elapsed() > patience {
                return;
            }
            glommio::timer::sleep(STOP_POLL).await;
        }
    }
}
