//! A key whose value counts up, and readers that must never see less than what was acknowledged before they asked.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Client;

const KEY: &str = "register";
/// A member that does not answer must not hold a reader for long.
const DEADLINE: Duration = Duration::from_secs(3);
/// Between two calls of one reader or writer, so that they leave the machine to others.
const PAUSE: Duration = Duration::from_millis(5);

/// The writer and one reader per member, until they are stopped.
pub struct Register {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Revision of the newest put that was acknowledged.
    acknowledged: AtomicI64,
    writes: AtomicUsize,
    reads: Vec<AtomicUsize>,
}

impl Register {
    /// `clients` are one per member. The writer goes round them when one does not answer.
    pub fn start(clients: Vec<Client>) -> Self {
        let shared = Arc::new(Shared {
            reads: clients.iter().map(|_| AtomicUsize::new(0)).collect(),
            ..Default::default()
        });
        let stop = watch::Sender::new(false);
        let clients: Vec<_> = clients
            .into_iter()
            .map(|client| client.deadline(DEADLINE))
            .collect();
        let mut tasks = vec![tokio::spawn(write(
            shared.clone(),
            clients.clone(),
            stop.subscribe(),
        ))];
        for (member, client) in clients.into_iter().enumerate() {
            let shared = shared.clone();
            tasks.push(tokio::spawn(read(shared, member, client, stop.subscribe())));
        }
        Self {
            shared,
            stop,
            tasks,
        }
    }

    /// Puts acknowledged so far.
    pub fn writes(&self) -> usize {
        self.shared.writes.load(Ordering::Relaxed)
    }

    /// Reads that a member has answered so far.
    pub fn reads(&self, member: usize) -> usize {
        self.shared.reads[member].load(Ordering::Relaxed)
    }

    /// Ends everything; panics if a reader saw an old value.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            task.await.expect("no reader saw an old value");
        }
    }
}

async fn write(shared: Arc<Shared>, clients: Vec<Client>, stop: watch::Receiver<bool>) {
    let mut member = 0;
    let mut n = 0_u64;
    while !*stop.borrow() {
        n += 1;
        match clients[member].put(KEY, &n.to_string()).await {
            Ok(revision) => {
                shared.acknowledged.fetch_max(revision, Ordering::SeqCst);
                shared.writes.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => member = (member + 1) % clients.len(),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn read(shared: Arc<Shared>, member: usize, client: Client, stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let acknowledged = shared.acknowledged.load(Ordering::SeqCst);
        if let Ok(answer) = client.range(KEY, false).await {
            let seen = answer.kvs.first().map_or(0, |kv| kv.mod_revision);
            assert!(
                seen >= acknowledged,
                "member {member} answered revision {seen} after {acknowledged} was acknowledged"
            );
            shared.reads[member].fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
