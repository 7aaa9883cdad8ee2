//! Members whose own disk lost or damaged something: they fetch their data again from the others, or say why not.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ringd_tests::cluster::{Cluster, Plan};
use ringd_tests::server::{eventually, is_ringd};

use super::{load, settle};

const BLOCK_BYTES: usize = 4096;

fn log_segment(cluster: &Cluster, index: usize) -> PathBuf {
    let dir = cluster.member(index).data_dir().join("member/wal");
    let files = fs::read_dir(dir).expect("a log directory");
    let files = files.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|e| e == "wal"))
        .collect();
    files.sort();
    files.swap_remove(0)
}

fn page_file(cluster: &Cluster, index: usize) -> PathBuf {
    let dir = cluster.member(index).data_dir();
    dir.join("member/store.pages")
}

fn flip(file: &Path, offset: usize) {
    let file = OpenOptions::new().read(true).write(true).open(file);
    let file = file.expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset as u64)
        .expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x10], offset as u64)
        .expect("a byte");
    file.sync_all().expect("on the device");
}

/// Flips bits in the middle of what the log of a member that is down holds.
fn damage_log(cluster: &Cluster, index: usize) {
    let file = log_segment(cluster, index);
    let bytes = fs::read(&file).expect("a segment");
    let used = bytes
        .chunks(BLOCK_BYTES)
        .rposition(|block| block.iter().any(|b| *b != 0));
    let used = used.expect("a header at least");
    assert!(used > 8, "only {used} blocks were written");
    for block in used / 2..used / 2 + 2 {
        flip(&file, block * BLOCK_BYTES + 17);
    }
}

fn wal_asides(cluster: &Cluster, index: usize) -> usize {
    let dir = cluster.member(index).data_dir().join("member/wal");
    let entries = fs::read_dir(dir).expect("a log directory");
    entries
        .filter(|entry| entry.as_ref().expect("an entry").path().is_dir())
        .count()
}

/// The member comes back by itself, is caught up, and can be the quorum with one of the others.
async fn comes_back(cluster: &mut Cluster, victim: usize) {
    cluster.restart(victim).await;
    let server = &cluster.member(victim).server;
    for words in [
        "goes on without what it had",
        "are kept as",
        "it votes and serves clients from here on",
    ] {
        eventually(words, || server.log().contains(words)).await;
    }
    assert_eq!(wal_asides(cluster, victim), 1);
    cluster.agree_so_far().await;
    let killed = cluster.others(victim)[0];
    cluster.kill(killed);
    cluster.eventually_put(victim, "with two", "of three").await;
    let leader = cluster.leader().await;
    let listed = cluster.client(leader).members(true).await;
    assert_eq!(listed.expect("the members").len(), 3);
    cluster.restart(killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_a_damaged_log_fetches_it_again_under_load() {
    if !is_ringd() {
        return;
    }
    let mut cluster = Cluster::start(Plan::of(3)).await;
    let load = load(&cluster);
    load.progress(200).await;
    let leader = cluster.leader().await;
    for victim in [cluster.others(leader)[0], leader] {
        cluster.kill(victim);
        load.progress(100).await;
        damage_log(&cluster, victim);
        comes_back(&mut cluster, victim).await;
        load.progress(50).await;
    }
    settle(&cluster, load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_pages_are_damaged_beyond_both_checkpoints_fetches_them_again() {
    if !is_ringd() {
        return;
    }
    let mut cluster = Cluster::start(Plan::of(3)).await;
    let load = load(&cluster);
    load.progress(100).await;
    let victim = cluster.leader().await;
    cluster.kill(victim);
    let file = page_file(&cluster, victim);
    flip(&file, 40);
    flip(&file, BLOCK_BYTES + 40);
    comes_back(&mut cluster, victim).await;
    // What was damaged is still there.
    let mut aside = file.into_os_string();
    aside.push(".damaged-1");
    assert!(Path::new(&aside).exists());
    settle(&cluster, load).await;
}

/// With two of three damaged nobody leads: the third alone must not, and they wait and say for what.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_majority_elects_nobody() {
    if !is_ringd() {
        return;
    }
    let mut cluster = Cluster::start(Plan::of(3)).await;
    let load = load(&cluster);
    load.progress(100).await;
    drop(load.stop().await);
    let leader = cluster.leader().await;
    let victims = cluster.others(leader);
    for index in [leader, victims[0], victims[1]] {
        cluster.kill(index);
    }
    for victim in &victims {
        damage_log(&cluster, *victim);
    }
    for index in [leader, victims[0], victims[1]] {
        cluster.boot(index);
    }
    for victim in &victims {
        let server = &cluster.member(*victim).server;
        eventually("it says what it waits for", || {
            server
                .log()
                .contains("a majority of the members must run with their data intact")
        })
        .await;
    }
    // Each of them has served once: before the damage.
    for index in [leader, victims[0], victims[1]] {
        let log = cluster.member(index).server.log();
        let served = log.matches("ready to serve client requests").count();
        assert_eq!(served, 1, "m{index}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_refuses() {
    if !is_ringd() {
        return;
    }
    let mut cluster = Cluster::start(Plan::of(2)).await;
    let load = load(&cluster);
    load.progress(100).await;
    drop(load.stop().await);
    let victim = cluster.leader().await;
    cluster.kill(victim);
    damage_log(&cluster, victim);
    cluster.boot(victim);
    let status = cluster.member_mut(victim).server.exit().await;
    assert!(!status.success());
    let log = cluster.member(victim).server.log();
    for words in [
        "the log is damaged",
        "cannot elect a leader without this member",
    ] {
        assert!(log.contains(words), "{words} is not in the log");
    }
    assert_eq!(wal_asides(&cluster, victim), 0);
}

/// The files of a directory, copied.
fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => {
                fs::copy(entry.path(), target).expect("a copy");
            }
        }
    }
}

/// An old copy of a member's directory is put back: the others know what it acknowledged since, whoever leads by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_directory_is_an_old_copy_is_refused() {
    if !is_ringd() {
        return;
    }
    let mut cluster = Cluster::start(Plan::of(3)).await;
    let load = load(&cluster);
    load.progress(100).await;
    let leader = cluster.leader().await;
    let (victim, third) = (cluster.others(leader)[0], cluster.others(leader)[1]);
    cluster.kill(victim);
    let dir = cluster.member(victim).data_dir().to_owned();
    let copy = dir.with_extension("copy");
    copy_dir(&dir, &copy);
    cluster.restart(victim).await;
    load.progress(200).await;
    cluster.kill(victim);
    // It acknowledged to one, and comes back to the other, which knows nothing of that.
    let former = cluster.leader().await;
    let next = if former == third { leader } else { third };
    let id = cluster.member(next).id();
    cluster.client(former).move_leader(id).await.expect("moved");
    load.progress(50).await;
    fs::remove_dir_all(&dir).expect("removed");
    fs::rename(&copy, &dir).expect("put back");
    cluster.boot(victim);
    let status = cluster.member_mut(victim).server.exit().await;
    assert!(!status.success());
    let log = cluster.member(victim).server.log();
    // Whoever hears of it first says what it knows: an acknowledgement, or a later process.
    let why = ["it acknowledged entry", "its process is number"];
    let refused = |why: &&str| log.contains(&format!("refuses this one: {why}"));
    assert!(why.iter().any(refused), "{log}");
    load.progress(50).await;
    settle(&cluster, load).await;
}
