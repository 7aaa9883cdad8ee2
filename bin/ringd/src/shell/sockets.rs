//! The life of a connection: accepted, read, written to, ended.
//!
//! A connection that the server has ended sends its last bytes and FIN, and is closed soon after, whatever its peer does
//! (`endings`). Its descriptor is free, and its place at the door (`doors`), when its reader is done.

use super::{spawn, Core, Reading, READ_BUFFER_BYTES};
use crate::server::{Link, Port};
use net::driver::{Listener, Socket};
use std::{cell::RefCell, future::poll_fn, io::IoSlice, rc::Rc, task::Poll, time::Duration};

/// A connection whose peer does not read is looked at again after this time, then after twice as long each time...
const BACK_PRESSURE_POLL_MIN: Duration = Duration::from_millis(2);
/// ...up to this: there may be thousands of them, for as long as they are allowed to stall.
const BACK_PRESSURE_POLL_MAX: Duration = Duration::from_millis(50);
/// After a failed accept.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// A pause that lets the ring turn, and with it everybody else: only a timer does that.
const TURN: Duration = Duration::from_micros(1);

/// Sends what waits in the connections whose output changed, and closes those that had their time.
pub fn flush(core: &mut Core, dirty: &mut Vec<Link>, now_ns: u64) {
    while let Some(link) = core.endings.take_due(now_ns) {
        core.cut(link);
    }
    loop {
        dirty.clear();
        core.server.take_dirty(dirty);
        if dirty.is_empty() {
            return;
        }
        for link in dirty.drain(..) {
            send(core, link, now_ns);
        }
    }
}

fn send(core: &mut Core, link: Link, now_ns: u64) {
    let Some(socket) = core.sockets.get(&link).cloned() else {
        return;
    };
    if core.server.should_close(link) {
        core.endings.begin(link, now_ns);
    }
    if core.full.contains(&link) {
        return;
    }
    while let Some(output) = core.server.output(link) {
        if output.is_empty() {
            break;
        }
        match socket.try_send(&[IoSlice::new(output.bytes())]) {
            Ok(Some(sent)) => output.consume(sent),
            Ok(None) => {
                let waiting = output.bytes();
                let first = waiting[..waiting.len().min(READ_BUFFER_BYTES)].to_vec();
                core.full.insert(link);
                core.writers.push((link, socket, first));
                return;
            }
            Err(_) => return core.cut(link),
        }
    }
    core.server.sent(link, now_ns);
    if core.server.should_close(link) {
        core.endings.begin(link, now_ns);
        if core.endings.sent(link, now_ns) {
            socket.shutdown_write();
        }
    }
}

/// Waits until a full socket takes bytes again. The bytes it waits with are the first ones of the connection's output,
/// which nobody else touches meanwhile.
pub async fn write_when_possible(
    core: Rc<RefCell<Core>>,
    link: Link,
    socket: Socket,
    first: Vec<u8>,
) {
    let result = socket.send_some(&first).await;
    let mut core = core.borrow_mut();
    core.full.remove(&link);
    match result {
        Ok(sent) => {
            if let Some(output) = core.server.output(link) {
                output.consume(sent);
            }
            core.server.touch(link);
            core.wake();
        }
        Err(_) => core.cut(link),
    }
}

/// Accepts connections as long as there is room for them: the others wait in the kernel's queue.
pub async fn accept(listener: Listener, port: Port, core: Rc<RefCell<Core>>) {
    loop {
        poll_fn(
            |context| match core.borrow_mut().doors.has_room(port, context.waker()) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            },
        )
        .await;
        match listener.accept().await {
            Ok(socket) => {
                let link = {
                    let mut core = core.borrow_mut();
                    let now_ns = core.now_ns();
                    let link = core.server.open(port, now_ns);
                    core.doors.enter(port);
                    core.sockets.insert(link, socket.clone());
                    core.wake();
                    link
                };
                spawn(&core, serve(socket, link, port, core.clone()));
            }
            Err(_) => glommio::timer::sleep(ACCEPT_BACKOFF).await,
        }
    }
}

async fn serve(socket: Socket, link: Link, port: Port, core: Rc<RefCell<Core>>) {
    read(socket, link, core.clone()).await;
    core.borrow_mut().doors.leave(port);
}

/// Reads until the connection is over, and closes it.
pub async fn read(socket: Socket, link: Link, core: Rc<RefCell<Core>>) {
    let buffers = core.borrow().buffers.clone();
    let mut pause = BACK_PRESSURE_POLL_MIN;
    loop {
        let reading = core.borrow().reading(link);
        match reading {
            Reading::Over => break,
            Reading::Wait => {
                glommio::timer::sleep(pause).await;
                pause = longer(pause);
                continue;
            }
            Reading::Go => pause = BACK_PRESSURE_POLL_MIN,
        }
        // The buffer is borrowed only while bytes are moved: a thousand idle connections share one.
        let result = socket
            .read_with(&buffers, |bytes| core.borrow_mut().receive(link, bytes))
            .await;
        match result {
            Ok(0) | Err(_) => break,
            // There is more, probably: who sends without a pause must not keep the others waiting.
            Ok(READ_BUFFER_BYTES) => glommio::timer::sleep(TURN).await,
            Ok(_) => {}
        }
    }
    {
        let mut core = core.borrow_mut();
        let now_ns = core.now_ns();
        core.cut(link);
        core.endings.forget(link);
        core.server.close(link, now_ns);
        core.wake();
    }
    socket.shutdown();
}

/// The pause after this one, if the peer has not read meanwhile.
fn longer(pause: Duration) -> Duration {
    (pause * 2).min(BACK_PRESSURE_POLL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_never_reads_is_looked_at_rarely() {
        let pauses =
            std::iter::successors(Some(BACK_PRESSURE_POLL_MIN), |&last| Some(longer(last)));
        let first: Vec<u128> = pauses.take(7).map(|pause| pause.as_millis()).collect();
        assert_eq!(first, [2, 4, 8, 16, 32, 50, 50]);
    }
}
