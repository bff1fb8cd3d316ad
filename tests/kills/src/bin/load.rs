//! Writes until it is killed: `load FILE SEED FIRST`, where FIRST numbers its first write.
//!
//! Lines of its journal are `i WRITE KIND BLOCK COUNT` before a write is submitted and `a WRITE`
//! when it was acknowledged; KIND is `w`, or `z` for zeros. A block has one write under way at most.

use std::{
    collections::BTreeMap,
    env,
    io::{Write as _, stdout},
    path::Path,
};

use fathom_block::{Operation, Request, RequestId};
use fathom_lvs::NewSnapshot;
use fathom_runtime::Buffer;
use fathom_test_kills::{BLOCK, BLOCKS, Running, fill, open};
use fathom_test_support::random::Random;
use fathom_units::{BlockCount, Lba};
use uuid::Uuid;

/// Requests under way.
const DEPTH: usize = 64;
/// Snapshots that are kept.
const SNAPSHOTS: usize = 3;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [path, seed, first] = &arguments[..] else { panic!("load FILE SEED FIRST") };
    let running = open(Path::new(path));
    let random = Random::new(seed.parse().expect("a number"));
    load(&running, random, first.parse().expect("a number"));
}

fn load(running: &Running, mut random: Random, first: u64) {
    let Running { pool, volume, .. } = running;
    let mut submitter = pool.submitter(DEPTH);
    let mut under_way: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for write in first.. {
        while submitter.under_way() == DEPTH {
            let answer = submitter.answer().expect("some are under way");
            assert_eq!(answer.result, Ok(()), "request {:?}", answer.id);
            under_way.remove(&answer.id.0);
            journal(&format!("a {}\n", answer.id.0));
        }
        let (block, count) = loop {
            let count = 1 + random.below(8);
            let block = random.below(BLOCKS - count);
            let clash =
                |&(other, length): &(u64, u64)| block < other + length && other < block + count;
            if !under_way.values().any(clash) {
                break (block, count);
            }
        };
        let zeros = random.chance(1, 10);
        let (operation, kind, data) = if zeros {
            (Operation::WriteZeroes, 'z', None)
        } else {
            let length = usize::try_from(count).expect("few") * BLOCK;
            let mut data = Buffer::zeroed(length);
            for (block, bytes) in (block..).zip(data.chunks_exact_mut(BLOCK)) {
                fill(bytes, block, write);
            }
            (Operation::Write { fua: random.chance(1, 50) }, 'w', Some(data))
        };
        journal(&format!("i {write} {kind} {block} {count}\n"));
        under_way.insert(write, (block, count));
        let (lba, blocks) = (Lba(block), BlockCount(count));
        let request = Request { id: RequestId(write), operation, lba, blocks };
        submitter.submit(*volume, request, data);
        if random.chance(1, 400) {
            change_snapshots(running, write);
        }
    }
}

/// One line is one write to the pipe: all of it is there, or nothing.
fn journal(line: &str) {
    let mut stdout = stdout().lock();
    stdout.write_all(line.as_bytes()).expect("the test reads");
    stdout.flush().expect("the test reads");
}

/// Takes a snapshot, and deletes the oldest one when there are enough.
fn change_snapshots(running: &Running, write: u64) {
    let (pool, volume) = (&running.pool, running.volume);
    let ids = pool.look(|store| store.snapshots().map(|record| record.id).collect::<Vec<_>>());
    let ids = ids.expect("the pool is open");
    if ids.len() >= SNAPSHOTS {
        let oldest = ids[0];
        pool.call(move |store| store.delete_snapshot(oldest)).expect("it can be deleted");
    }
    let (name, labels) = (format!("s{write}"), Vec::new());
    let uuid = Uuid::from_u128(u128::from(write) << 64 | 5);
    let new = NewSnapshot { volume, name, uuid, created_ns: 1, labels };
    pool.call(move |store| store.create_snapshots(vec![new])).expect("a snapshot");
}
