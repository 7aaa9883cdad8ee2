//! What the server acknowledged is there after a kill at any moment, at the revision that it named, in the order of time;
//! and nothing is there that was not asked for.
//!
//! `RINGD_KILL_CYCLES` sets the number of kills (10 otherwise), `RINGD_SEED` repeats a run.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use ringd_tests::random::{amount, seed};
use ringd_tests::server::{is_ringd, temporary_dir, Server, Setup};
use ringd_tests::shim::{Loss, Shim};
use ringd_tests::witness::{for_a_while, Witness};

const CYCLES: u64 = 10;
const WRITERS: u32 = 8;

/// Starts writers, kills the server under them, and gives the number of writes acknowledged.
async fn load_and_kill(server: &mut Server, witness: &Arc<Witness>, rng: &mut StdRng) -> usize {
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let connection = server.connect().await;
        let seed = rng.random();
        writers.push(tokio::spawn(
            witness.clone().write(writer, seed, connection),
        ));
    }
    for_a_while(rng, 20..400).await;
    server.kill();
    for writer in writers {
        writer.await.expect("no writer was refused");
    }
    witness.acknowledged()
}

/// Some starts are killed before they are over.
async fn restart(server: &mut Server, rng: &mut StdRng, mut after_kill: impl FnMut(&mut StdRng)) {
    after_kill(rng);
    while rng.random_range(0..4) == 0 {
        server.respawn();
        for_a_while(rng, 0..150).await;
        server.kill();
        after_kill(rng);
    }
    server.restart().await;
}

async fn cycles(mut server: Server, rng: &mut StdRng, mut after_kill: impl FnMut(&mut StdRng)) {
    let witness = Arc::new(Witness::default());
    let mut acknowledged = 0;
    for cycle in 0..amount("RINGD_KILL_CYCLES", CYCLES) {
        acknowledged += load_and_kill(&mut server, &witness, rng).await;
        restart(&mut server, rng, &mut after_kill).await;
        let connection = server.connect().await;
        if let Err(why) = witness.check(&connection).await {
            panic!("cycle {cycle}: {why}");
        }
    }
    println!("{acknowledged} writes were acknowledged");
    assert!(acknowledged > 0, "nothing was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill() {
    let mut rng = StdRng::seed_from_u64(seed(11));
    cycles(Server::fresh().await, &mut rng, |_| {}).await;
}

/// The other ways in which writes reach the device.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_of_a_server_that_writes_inline_or_through_the_ring() {
    if !is_ringd() {
        println!("skipped: the server under test has no such setting");
        return;
    }
    let mut rng = StdRng::seed_from_u64(seed(14));
    for way in ["inline", "ring"] {
        let dir = temporary_dir();
        if way == "ring" && !takes_direct_writes(dir.path()) {
            println!("skipped: this file system has no direct I/O, which --wal-io=ring needs");
            continue;
        }
        let setup = Setup::default().dir(dir.path()).flags(["--wal-io", way]);
        cycles(Server::start(setup).await, &mut rng, |_| {}).await;
    }
}

fn takes_direct_writes(dir: &Path) -> bool {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    options.custom_flags(libc::O_DIRECT);
    options.open(dir.join("direct")).is_ok()
}

/// The same as if the power had failed: what was not flushed is gone, or half of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_that_loses_unflushed_writes() {
    if !is_ringd() {
        println!("skipped: the layer needs a server that writes through the C library");
        return;
    }
    let mut rng = StdRng::seed_from_u64(seed(12));
    let dir = temporary_dir();
    let shim = shim(dir.path());
    let server = Server::start(shim.under(Setup::default().dir(dir.path()))).await;
    cycles(server, &mut rng, |rng| {
        let everything = rng.random();
        let loss = if everything {
            Loss::Everything
        } else {
            Loss::Some(rng)
        };
        shim.power_cut(loss);
    })
    .await;
}

fn shim(dir: &Path) -> Shim {
    Shim::new(&dir.join("m0.etcd"))
}

/// If flushes do nothing, acknowledged writes are lost, and the check above must say so: it can fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_notices_flushes_that_do_nothing() {
    if !is_ringd() {
        println!("skipped: the layer needs a server that writes through the C library");
        return;
    }
    let mut rng = StdRng::seed_from_u64(seed(13));
    let dir = temporary_dir();
    let shim = shim(dir.path());
    let setup = shim.under(Setup::default().dir(dir.path()));
    let mut server = Server::start(setup.env("RINGD_FAULT_LIE", "1")).await;
    let witness = Arc::new(Witness::default());
    let mut acknowledged = 0;
    while acknowledged == 0 {
        acknowledged = load_and_kill(&mut server, &witness, &mut rng).await;
        let lost = shim.power_cut(Loss::Everything);
        println!("{acknowledged} writes acknowledged, {lost} changes lost");
        server.respawn();
        // A server that refuses to start on such a directory has noticed as well.
        if server.ready().await.is_err() {
            return;
        }
        if acknowledged == 0 {
            continue;
        }
        let connection = server.connect().await;
        let verdict = witness.check(&connection).await;
        assert!(verdict.is_err(), "acknowledged writes were lost unnoticed");
    }
}
