//! Writers that go on whatever happens to the members, until they are stopped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::witness::{Witness, Writer};

/// A writer gives up on a member that does not answer for so long, and asks the next.
const DEADLINE: Duration = Duration::from_secs(3);
/// Between two operations of one writer: a test is about what happens to them, not about how many there are.
const PAUSE: Duration = Duration::from_millis(4);

pub struct Load {
    witness: Arc<Witness>,
    stop: watch::Sender<bool>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Each writer begins at another member. `revision` is one before the first write.
    pub fn start(clients: &[Client], writers: u32, seed: u64, revision: i64) -> Self {
        let witness = Arc::new(Witness::of_cluster(revision));
        let stop = watch::Sender::new(false);
        let writers = (0..writers).map(|number| {
            let clients = clients.iter().cloned().map(|c| c.deadline(DEADLINE));
            let writer = Writer::new(number, seed.wrapping_add(u64::from(number)));
            tokio::spawn(write(
                witness.clone(),
                writer,
                number as usize,
                clients.collect(),
                stop.subscribe(),
            ))
        });
        Self {
            writers: writers.collect(),
            witness,
            stop,
        }
    }

    /// Operations acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.witness.acknowledged()
    }

    /// Waits until so many more operations were acknowledged.
    pub async fn progress(&self, operations: usize) {
        let goal = self.acknowledged() + operations;
        let what = format!("{operations} more writes");
        crate::server::eventually(&what, || self.acknowledged() >= goal).await;
    }

    /// Ends the writers and gives what they were told.
    pub async fn stop(self) -> Arc<Witness> {
        self.stop.send_replace(true);
        for writer in self.writers {
            writer.await.expect("no writer was refused");
        }
        self.witness
    }
}

async fn write(
    witness: Arc<Witness>,
    mut writer: Writer,
    mut member: usize,
    clients: Vec<Client>,
    stop: watch::Receiver<bool>,
) {
    while !*stop.borrow() {
        let client = &clients[member % clients.len()];
        if !witness.step(&mut writer, client).await {
            member += 1;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
