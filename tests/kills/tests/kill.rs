//! `load` is killed at any moment; then every block holds its last acknowledged write, or one that
//! was submitted later.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use fathom_block::Operation;
use fathom_runtime::{
    Buffer,
    device::{DeviceError, DeviceFile},
};
use fathom_test_kills::{BLOCK, BLOCKS, create, open, write_of};
use fathom_test_support::random::Random;
use fathom_units::{BlockCount, Lba};

/// Rounds, unless `FATHOM_ROUNDS` says otherwise.
const ROUNDS: u64 = 12;
/// Blocks that one look at the volume reads.
const STEP: u64 = 64;

/// What each block may hold: the writes of which one must be there. The first one is the last that
/// was acknowledged; 0 stands for zeros.
type Blocks = Vec<Vec<u64>>;

struct Write {
    zeros: bool,
    blocks: std::ops::Range<usize>,
}

/// Reads the journal of a `load` that is killed after so many acknowledged writes. Returns the
/// number of the next write, and how many were acknowledged.
fn follow(mut load: Child, most: u64, blocks: &mut Blocks) -> (u64, u64) {
    let output = load.stdout.take().expect("it is a pipe");
    let mut writes: BTreeMap<u64, Write> = BTreeMap::new();
    let (mut next, mut acknowledged) = (0, 0);
    for line in BufReader::new(output).lines() {
        let line = line.expect("the pipe is read to its end");
        let fields: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| fields[at].parse::<u64>().expect("a number");
        let write = number(1);
        if fields[0] == "i" {
            let first = usize::try_from(number(3)).expect("a block");
            let count = usize::try_from(number(4)).expect("few");
            let zeros = fields[2] == "z";
            let held = first..first + count;
            for block in held.clone() {
                blocks[block].push(if zeros { 0 } else { write });
            }
            writes.insert(write, Write { zeros, blocks: held });
            next = write + 1;
        } else {
            let Write { zeros, blocks: held } = writes.remove(&write).expect("it was submitted");
            for block in held {
                blocks[block] = vec![if zeros { 0 } else { write }];
            }
            acknowledged += 1;
            if acknowledged == most {
                load.kill().expect("it can be killed");
            }
        }
    }
    load.wait().expect("it has ended");
    (next, acknowledged)
}

/// A pool in a folder of this test's own.
fn new_pool(test: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the build folder can be written");
    let path = folder.join("member");
    create(&path);
    path
}

fn start(path: &Path, round: u64, next: u64) -> Child {
    Command::new(env!("CARGO_BIN_EXE_load"))
        .arg(path)
        .args([round.to_string(), next.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts")
}

#[test]
fn every_acknowledged_write_survives_a_kill() {
    let path = new_pool("kills");
    let rounds =
        env::var("FATHOM_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let mut random = Random::new(1);
    let mut blocks: Blocks = vec![vec![0]; usize::try_from(BLOCKS).expect("few")];
    let mut next = 1;
    for round in 0..rounds {
        let load = start(&path, round, next);
        let most = 1 + random.below(3000);
        let (after, acknowledged) = follow(load, most, &mut blocks);
        assert!(acknowledged >= most, "round {round}: it ended by itself after {acknowledged}");
        next = after;
        verify(&path, round, &mut blocks);
    }
    eprintln!("{rounds} kills, {next} writes");
    fs::remove_file(&path).expect("it is there");
}

fn verify(path: &Path, round: u64, blocks: &mut Blocks) {
    let running = open(path);
    for first in (0..BLOCKS).step_by(usize::try_from(STEP).expect("small")) {
        let data = Buffer::zeroed(usize::try_from(STEP).expect("small") * BLOCK);
        let (lba, count) = (Lba(first), BlockCount(STEP));
        let read = running.pool.request(running.volume, Operation::Read, lba, count, Some(data));
        let data = read.expect("it is read").expect("it comes back");
        for (block, bytes) in (first..).zip(data.chunks_exact(BLOCK)) {
            let may = &mut blocks[usize::try_from(block).expect("few")];
            let found = write_of(bytes, block);
            assert!(may.contains(&found), "round {round}, block {block}: {found}, not of {may:?}");
            *may = vec![found];
        }
    }
    running.loops.stop();
}

#[test]
fn the_lock_of_a_killed_process_is_waited_for() {
    let path = new_pool("lock");
    let mut load = start(&path, 1, 1);
    let mut lines = BufReader::new(load.stdout.take().expect("it is a pipe")).lines();
    lines.next().expect("it writes").expect("a line");
    let refused = DeviceFile::open(&path, Duration::ZERO).expect_err("the process has it");
    let DeviceError::InUse { holder: Some(holder), .. } = refused else { panic!("{refused}") };
    assert_eq!(holder, format!("process {} (load)", load.id()));
    load.kill().expect("it can be killed");
    // Not waited for: the lock is free when the kernel has done with the process.
    DeviceFile::open(&path, Duration::from_secs(120)).expect("the lock is free in time");
    load.wait().expect("it has ended");
}
