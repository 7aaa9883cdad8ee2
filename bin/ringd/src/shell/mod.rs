//! The shell: one glommio executor that maps each operation to one system call and each completion to one input.
//!
//! Tasks: one accepts per listener, one reads per connection, one opens each connection to another member, and the pump.
//! Readers hand bytes to the server and wake the
//! pump; the pump runs after them, lets the server settle, carries its operations out and sends what waits in the
//! connections. So everything that arrived in one turn of the ring shares one Raft batch, one flush and few sends.

mod doors;
mod endings;
mod log_io;
mod mailbox;
mod pace;
mod peers;
mod pool;
mod ring;
mod sockets;
mod stop;

use crate::{
    descriptors::Shares,
    member::Input,
    process::Signal,
    server::{Link, Operation, Port, Server},
};
use doors::Doors;
use endings::{Endings, Reading};
use engine::{
    page::{is_disk_full, CheckpointJob, PageDir, Progress, Stage},
    wal::driver::LogFiles,
};
use log_io::LogIo;
pub use log_io::WalIo;
use mailbox::Mailbox;
use net::driver::{Listener, Socket};
use pace::{Pace, Pressure};
use peers::{Dial, Resolver};
use pool::Pool;
use sockets::{accept, flush, write_when_possible};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    future::{poll_fn, Future},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

/// Bytes read from a socket at once.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// The longest time between two pulses. It also ends a sleep that the executor should not have begun: a wake-up comes
/// from another thread, whatever the ring believes.
const PULSE_NS_MAX: u64 = 50_000_000;
/// Background work gets a slice at least this often, however busy the member is: some 5 % of the core. Else compaction and
/// watches that are behind would wait for as long as the load lasts.
const WORK_NS_MAX: u64 = 2_000_000;
/// Pool threads for page fetches, checkpoints and log files.
const POOL_THREADS: usize = 2;
/// A write with this many callers waits on the executor for the device, when that is fast: nobody else is kept waiting.
const ALONE_CALLS_MAX: usize = 1;

/// A completion from another thread.
pub enum Completion {
    Input(Input),
    /// The addresses of a `host:port`, none if it has none.
    Resolved {
        name: String,
        addresses: Vec<SocketAddr>,
    },
    Stop(Signal),
}

/// A line for the operator.
pub enum Notice {
    Problem(String),
    /// Of what happens without anybody's fault: elections.
    Election(String),
}

/// Why the shell ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Signal(Signal),
    Halted(String),
    /// The member was removed from its cluster.
    Removed,
}

/// Lets another thread stop the server.
#[derive(Clone)]
pub struct Stopper(Arc<Mailbox<Completion>>);

impl Stopper {
    pub fn stop(&self, signal: Signal) {
        self.0.push(Completion::Stop(signal));
    }
}

struct Core {
    server: Server,
    /// The open connections. Whatever takes one out of here shuts it down, and its reader then ends.
    sockets: BTreeMap<Link, Socket>,
    doors: Doors,
    endings: Endings,
    /// Connections whose socket buffer is full; a writer task waits for each.
    full: BTreeSet<Link>,
    /// Writer tasks to start.
    writers: Vec<(Link, Socket, Vec<u8>)>,
    /// Addresses at which no connection could be opened.
    unreached: Vec<Vec<SocketAddr>>,
    /// The read buffer, shared by all connections.
    buffers: Rc<RefCell<Vec<u8>>>,
    clock: Instant,
    waker: Option<Waker>,
    wanted: bool,
    stopping: Option<Signal>,
    halted: Option<String>,
    removed: bool,
}

impl Core {
    fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Whether the connection's reader is to go on.
    fn reading(&self, link: Link) -> Reading {
        if !self.sockets.contains_key(&link) {
            return Reading::Over;
        }
        match self.endings.reading(link) {
            Some(reading) => reading,
            None if self.server.wants_input(link) => Reading::Go,
            None => Reading::Wait,
        }
    }

    fn receive(&mut self, link: Link, bytes: &[u8]) {
        if !self.endings.swallows(link, bytes.len()) {
            let now_ns = self.now_ns();
            self.server.receive(link, bytes, now_ns);
            self.wake();
        }
    }

    /// Ends the connection at once, in both directions.
    fn cut(&mut self, link: Link) {
        if let Some(socket) = self.sockets.remove(&link) {
            socket.shutdown(); // the reader notices and ends
        }
    }

    fn wake(&mut self) {
        self.wanted = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

pub struct Shell {
    core: Rc<RefCell<Core>>,
    mailbox: Arc<Mailbox<Completion>>,
    pool: Pool<Completion>,
    /// A thread that makes the log's segments and one that writes checkpoints. Both take their time, and a caller that waits
    /// for a page must not wait for them.
    log_maker: Pool<Completion>,
    checkpointer: Pool<Completion>,
    resolver: Resolver,
    /// Connections whose opening is to begin.
    dials: Vec<(Dial, Vec<SocketAddr>)>,
    /// Moments that the server asked for.
    wakes_ns: Vec<u64>,
    log: LogIo,
    /// Of the pages that wait for a checkpoint.
    pressure: Pressure,
    operations: Vec<Operation>,
    dirty: Vec<Link>,
    inbox: Vec<Completion>,
    inputs: Vec<Input>,
    /// When background work is due even if there is other work.
    next_work_ns: u64,
    /// What `--wal-io auto` found.
    pub measured: Option<engine::wal::Probe>,
    log_files: Arc<LogFiles>,
    page_dir: Arc<dyn PageDir>,
}

impl Shell {
    pub fn new(
        server: Server,
        log_files: Arc<LogFiles>,
        page_dir: Arc<dyn PageDir>,
        wal_io: WalIo,
        shares: Shares,
    ) -> io::Result<Shell> {
        let mailbox = Arc::new(Mailbox::default());
        let pool = Pool::start("pool", POOL_THREADS, mailbox.clone())?;
        let log_maker = Pool::start("log-maker", 1, mailbox.clone())?;
        let checkpointer = Pool::start("checkpointer", 1, mailbox.clone())?;
        let resolver = Resolver::start(mailbox.clone())?;
        let (log, measured) = LogIo::start(wal_io, log_files.clone())?;
        Ok(Shell {
            log,
            pressure: Pressure::default(),
            resolver,
            dials: Vec::new(),
            wakes_ns: Vec::new(),
            measured,
            inputs: Vec::new(),
            next_work_ns: 0,
            core: Rc::new(RefCell::new(Core {
                server,
                sockets: BTreeMap::new(),
                doors: Doors::new(shares),
                endings: Endings::default(),
                full: BTreeSet::new(),
                writers: Vec::new(),
                unreached: Vec::new(),
                buffers: Rc::new(RefCell::new(vec![0; READ_BUFFER_BYTES])),
                clock: Instant::now(),
                waker: None,
                wanted: true,
                stopping: None,
                halted: None,
                removed: false,
            })),
            mailbox,
            pool,
            log_maker,
            checkpointer,
            operations: Vec::new(),
            dirty: Vec::new(),
            inbox: Vec::new(),
            log_files,
            page_dir,
        })
    }

    pub fn stopper(&self) -> Stopper {
        Stopper(self.mailbox.clone())
    }

    /// Serves until a signal or a failure: other members from now on, clients once the member is ready. Must run on an
    /// executor.
    pub async fn serve(
        mut self,
        peers: Vec<Listener>,
        mut listeners: Vec<Listener>,
        on_ready: impl FnOnce(),
        notice: impl Fn(Notice),
    ) -> Ended {
        let beating = Arc::new(AtomicBool::new(true));
        let metronome = self.metronome(beating.clone());
        let mut on_ready = Some(on_ready);
        let mut next_pulse_ns = 0;
        for listener in peers {
            let task = accept(listener, Port::Peer, self.core.clone());
            spawn(&self.core, task);
        }
        let ended = loop {
            self.turn(&mut next_pulse_ns);
            self.start_tasks();
            if on_ready.is_some() && self.core.borrow().server.member.is_ready() {
                if let Some(ready) = on_ready.take() {
                    // Clients see a member only once the cluster knows its name and addresses.
                    for listener in listeners.drain(..) {
                        let task = accept(listener, Port::Client, self.core.clone());
                        spawn(&self.core, task);
                    }
                    ready();
                }
            }
            {
                let server = &mut self.core.borrow_mut().server;
                let elections = server.take_election_lines().into_iter();
                elections.map(Notice::Election).for_each(&notice);
                let problems = server.take_notices().into_iter();
                problems.map(Notice::Problem).for_each(&notice);
            }
            {
                let core = self.core.borrow();
                if let Some(reason) = &core.halted {
                    break Ended::Halted(reason.clone());
                }
                if core.removed {
                    break Ended::Removed;
                }
                if let Some(signal) = core.stopping {
                    break Ended::Signal(signal);
                }
            }
            self.rest().await;
        };
        if matches!(ended, Ended::Signal(_)) {
            self.stop(&mut next_pulse_ns).await;
        }
        beating.store(false, Ordering::Relaxed);
        if let Some(thread) = metronome {
            let _ = thread.join();
        }
        self.log_files.abandon();
        // A checkpoint under way spares nobody any more.
        self.pressure.set(100);
        Pool::stop(&mut [&mut self.pool, &mut self.log_maker, &mut self.checkpointer]);
        self.resolver.stop();
        ended
    }

    /// Wakes the executor regularly from outside.
    fn metronome(&self, beating: Arc<AtomicBool>) -> Option<std::thread::JoinHandle<()>> {
        let mailbox = self.mailbox.clone();
        let period = Duration::from_nanos(self.pulse_ns());
        std::thread::Builder::new()
            .name("metronome".into())
            .spawn(move || {
                while beating.load(Ordering::Relaxed) {
                    std::thread::sleep(period);
                    mailbox.nudge();
                }
            })
            .ok()
    }

    fn pulse_ns(&self) -> u64 {
        let tick_ns = self.core.borrow().server.member.tick_ns();
        (tick_ns / 2).clamp(1_000_000, PULSE_NS_MAX)
    }

    /// Waits until there is something to do. Background work counts, but lets the ring turn first.
    async fn rest(&mut self) {
        let works = {
            let core = self.core.borrow();
            core.server.wants_work() && !core.wanted
        };
        if works {
            // Only a timer lets network and disk completions in between.
            glommio::timer::sleep(Duration::from_micros(1)).await;
            let mut core = self.core.borrow_mut();
            if !core.wanted {
                let now_ns = core.now_ns();
                core.server.complete(Input::Work, now_ns);
                self.next_work_ns = now_ns + WORK_NS_MAX;
            }
            return;
        }
        let mut slept = false;
        poll_fn(|context| {
            let mut core = self.core.borrow_mut();
            self.mailbox.take(&mut self.inbox, Some(context.waker()));
            self.log.poll(context, &mut self.inputs);
            if core.wanted || !self.inbox.is_empty() || !self.inputs.is_empty() || slept {
                return Poll::Ready(());
            }
            // Whoever wakes this task next, be it the metronome, has it look around.
            slept = true;
            core.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// One turn: completions in, decisions, operations and bytes out, until nothing is left.
    fn turn(&mut self, next_pulse_ns: &mut u64) {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let pulse_ns = (core.server.member.tick_ns() / 2).clamp(1_000_000, PULSE_NS_MAX);
        loop {
            core.wanted = false;
            let now_ns = core.now_ns();
            self.mailbox.take(&mut self.inbox, None);
            self.log.take(&mut self.inputs);
            for input in self.inputs.drain(..) {
                core.server.complete(input, now_ns);
            }
            for completion in self.inbox.drain(..) {
                match completion {
                    Completion::Input(input) => core.server.complete(input, now_ns),
                    Completion::Resolved { name, addresses } => {
                        for dial in self.resolver.resolved(name, &addresses) {
                            self.dials.push((dial, addresses.clone()));
                        }
                    }
                    Completion::Stop(signal) => core.stopping = Some(signal),
                }
            }
            for addresses in core.unreached.drain(..) {
                self.resolver.forget(&addresses);
            }
            if now_ns >= *next_pulse_ns {
                *next_pulse_ns = now_ns + pulse_ns;
                core.server.pulse(now_ns);
            }
            let work_is_due = now_ns >= self.next_work_ns && core.server.wants_work();
            if work_is_due || core.server.member.wants_read_slice() {
                core.server.complete(Input::Work, now_ns);
                self.next_work_ns = now_ns + WORK_NS_MAX;
            }
            let again = core.server.settle(now_ns, &mut self.operations);
            self.pressure.set(core.server.member.checkpoint_pressure());
            flush(core, &mut self.dirty, now_ns);
            for operation in self.operations.drain(..) {
                match operation {
                    Operation::WriteLog(write) => {
                        let member = &core.server.member;
                        let may_wait = member.may_write_inline();
                        let alone = member.calls_waiting() <= ALONE_CALLS_MAX;
                        self.log.submit(write, may_wait, alone, &mut self.inputs);
                    }
                    Operation::LogFile(op) => {
                        let files = self.log_files.clone();
                        self.log_maker.submit(move || {
                            Completion::Input(Input::LogFile {
                                tag: op.tag,
                                result: files.run(&op),
                            })
                        });
                    }
                    Operation::ReadLog { from, job } => {
                        let files = self.log_files.clone();
                        self.pool.submit(move || {
                            Completion::Input(Input::LogRead {
                                from,
                                result: job.run(&*files),
                            })
                        });
                    }
                    Operation::Fetch(job) => self
                        .pool
                        .submit(move || Completion::Input(Input::Fetched { done: job.run() })),
                    Operation::Checkpoint(job) => {
                        let pace = Pace::new(self.pressure.clone());
                        self.checkpointer
                            .submit(move || Completion::Input(run_checkpoint(job, pace)));
                    }
                    Operation::Upkeep(job) => {
                        let files = self.log_files.clone();
                        self.pool
                            .submit(move || Completion::Input(Input::Upkeep(job.run(&*files))));
                    }
                    Operation::PrepareSnapshot { peer, id, pin } => self.pool.submit(move || {
                        let result = pin.into_source().map(Box::new);
                        Completion::Input(Input::SnapshotPrepared { peer, id, result })
                    }),
                    Operation::ReadSnapshot {
                        peer,
                        id,
                        offset,
                        bytes_max,
                        source,
                    } => self.pool.submit(move || {
                        Completion::Input(Input::SnapshotRead {
                            peer,
                            id,
                            offset,
                            result: source.read(offset, bytes_max),
                        })
                    }),
                    Operation::Stage { transfer, job } => {
                        let dir = self.page_dir.clone();
                        self.pool.submit(move || {
                            let staged = Box::new(job.run(&*dir));
                            Completion::Input(Input::Staged { transfer, staged })
                        });
                    }
                    Operation::Install(job) => {
                        let dir = self.page_dir.clone();
                        self.pool.submit(move || {
                            let result = job.run(&*dir);
                            Completion::Input(Input::Installed { result })
                        });
                    }
                    Operation::Dial {
                        connection,
                        address,
                        timeout_ns,
                    } => {
                        let timeout = Duration::from_nanos(timeout_ns);
                        let dial = Dial {
                            connection,
                            timeout,
                        };
                        self.dials.extend(self.resolver.resolve(&address, dial));
                    }
                    Operation::ClosePeer { connection } => core.cut(Link::Peer(connection)),
                    Operation::Wake { after_ns } => self.wakes_ns.push(after_ns),
                    Operation::Removed => core.removed = true,
                    Operation::Halt(reason) => core.halted = Some(reason),
                }
            }
            let goes_on = again || core.wanted || !self.inputs.is_empty();
            if core.halted.is_some() || core.removed || !goes_on {
                return;
            }
        }
    }

    /// Starts what the turn asked for. No part of it: a turn has the core.
    fn start_tasks(&mut self) {
        for (dial, addresses) in self.dials.drain(..) {
            spawn(&self.core, peers::dial(self.core.clone(), dial, addresses));
        }
        for after_ns in self.wakes_ns.drain(..) {
            spawn(&self.core, wake_after(self.core.clone(), after_ns));
        }
        let writers = std::mem::take(&mut self.core.borrow_mut().writers);
        for (link, socket, first) in writers {
            let task = write_when_possible(self.core.clone(), link, socket, first);
            spawn(&self.core, task);
        }
    }
}

/// Starts a task. The executor runs it at once, until it first waits, and even a timer may find that its time has come: so
/// nobody may have the core.
fn spawn(core: &RefCell<Core>, task: impl Future<Output = ()> + 'static) {
    assert!(core.try_borrow_mut().is_ok(), "a task started in a turn");
    glommio::spawn_local(task).detach();
}

/// Writes a checkpoint in paced runs.
fn run_checkpoint(mut job: CheckpointJob, mut pace: Pace) -> Input {
    loop {
        match job.step() {
            // Without a pause where the next checkpoint would be due before this one is done.
            Ok(Progress::Wrote(_)) if job.is_behind() => {}
            Ok(Progress::Wrote(bytes)) => pace.wrote(bytes),
            Ok(Progress::Finished(done)) => return Input::Checkpointed { result: Ok(done) },
            Err(error) if job.stage() == Stage::Grow && is_disk_full(&error) => {
                return Input::CheckpointFull { job: Box::new(job) }
            }
            Err(error) => return Input::Checkpointed { result: Err(error) },
        }
    }
}

/// Gives the member a moment that it asked for.
async fn wake_after(core: Rc<RefCell<Core>>, after_ns: u64) {
    glommio::timer::sleep(Duration::from_nanos(after_ns)).await;
    let mut core = core.borrow_mut();
    let now_ns = core.now_ns();
    core.server.wake(now_ns);
    core.wake();
}
