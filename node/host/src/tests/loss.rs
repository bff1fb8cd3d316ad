//! Losing an association, and what becomes of what was under way.

use fathom_block::Error as BlockError;
use fathom_nvme::nvm::NvmCommand;
use fathom_units::Qid;

use super::*;

fn bench(queues: u16) -> Bench {
    Bench::live(config(queues, 8), Peer::new(64))
}

/// The driver says that a connection of the association is lost.
fn lose(bench: &mut Bench, queue: u16) {
    let association = bench.opened.last().expect("opened").association;
    let connection = ConnectionId { association, queue: Qid(queue) };
    bench.peer.closed(connection);
    bench.host.closed(bench.now, connection);
    bench.run();
}

#[test]
fn a_lost_connection_ends_all_of_them_and_is_made_anew() {
    let mut bench = bench(2);
    lose(&mut bench, 1);
    assert_eq!(bench.lost(), Some(Error::Closed(Qid(1))));
    let closed: Vec<u16> = bench.closed.iter().map(|connection| connection.queue.0).collect();
    assert_eq!(closed, [0, 2], "the lost one is not closed once more");
    assert!(!bench.is_live());
    bench.wait(SECOND);
    assert!(bench.is_live());
    assert_eq!(bench.opened.last().map(|last| last.association), Some(AssociationId(2)));
}

#[test]
fn reads_and_flushes_are_begun_anew() {
    let mut bench = bench(1);
    bench.peer.medium.fill(5);
    bench.peer.hold = true;
    bench.submit(1, Operation::Read, 0, 1);
    bench.submit(2, Operation::Flush, 0, 0);
    bench.memory.insert(RequestId(3), vec![5; 4096]);
    bench.submit(3, Operation::Compare, 1, 1);
    bench.run();
    bench.peer.held.clear();
    bench.peer.hold = false;
    lose(&mut bench, 1);
    let Some(Event::Lost { unfenced, expires, .. }) = bench.events.last() else { panic!("lost") };
    assert!(!unfenced);
    assert_eq!(expires.since(bench.now), 20 * SECOND, "twice the keep alive timeout");
    bench.wait(SECOND);
    for id in 1..=3 {
        assert_eq!(bench.result(id), Some(Ok(())), "{id}");
    }
    assert_eq!(bench.memory[&RequestId(1)], vec![5; 4096]);
}

#[test]
fn a_write_is_not_tried_again_before_the_old_association_is_fenced() {
    let mut bench = bench(1);
    bench.peer.hold = true;
    bench.write(1, 0, 1, 1);
    bench.run();
    lose(&mut bench, 0);
    let Some(Event::Lost { association, unfenced: true, .. }) = bench.events.last().cloned() else {
        panic!("{:?}", bench.events)
    };
    let old = std::mem::take(&mut bench.peer.held);
    bench.peer.hold = false;
    bench.wait(100 * SECOND);
    assert!(bench.is_live());
    // A write that comes later waits behind it, and so does a read of the same blocks. A read of
    // others and a flush do not.
    bench.write(2, 0, 1, 2);
    bench.submit(3, Operation::Read, 1, 1);
    bench.submit(4, Operation::Flush, 0, 0);
    bench.submit(5, Operation::Read, 0, 1);
    bench.run();
    assert_eq!((bench.result(1), bench.result(2), bench.result(5)), (None, None, None));
    assert_eq!((bench.result(3), bench.result(4)), (Some(Ok(())), Some(Ok(()))));
    let is_write = |command: &&NvmCommand| matches!(command, NvmCommand::Write(_));
    assert_eq!(bench.peer.executed.iter().filter(is_write).count(), 0);
    // What is left of the old association takes effect now, and never again after that.
    bench.peer.held = old;
    bench.peer.let_go();
    assert_eq!(bench.peer.medium[0], 1);
    bench.host.fenced(bench.now, association);
    bench.run();
    assert_eq!((bench.result(1), bench.result(2)), (Some(Ok(())), Some(Ok(()))));
    assert_eq!(bench.peer.medium[0], 2, "in the order of submission");
    assert_eq!((bench.result(5), bench.memory[&RequestId(5)][0]), (Some(Ok(())), 2));
}

#[test]
fn fencing_before_the_new_association_is_live_is_as_good() {
    let mut bench = bench(1);
    bench.peer.hold = true;
    bench.write(1, 2, 60, 1);
    bench.submit(2, Operation::WriteZeroes, 0, 1);
    bench.run();
    bench.peer.held.clear();
    bench.peer.hold = false;
    lose(&mut bench, 1);
    bench.host.fenced(bench.now, AssociationId(1));
    bench.write(3, 1, 1, 3);
    bench.wait(SECOND);
    for id in 1..=3 {
        assert_eq!(bench.result(id), Some(Ok(())), "{id}");
    }
    let firsts = [bench.peer.medium[0], bench.peer.medium[4096], bench.peer.medium[8192]];
    assert_eq!(firsts, [0, 3, 1]);
}

#[test]
fn losses_in_a_row_are_fenced_each_by_itself() {
    let mut bench = bench(1);
    bench.peer.hold = true;
    bench.write(1, 0, 1, 1);
    bench.run();
    lose(&mut bench, 1);
    bench.wait(SECOND);
    bench.host.fenced(bench.now, AssociationId(1));
    bench.run();
    lose(&mut bench, 1);
    bench.peer.held.clear();
    bench.peer.hold = false;
    bench.wait(SECOND);
    bench.host.fenced(bench.now, AssociationId(1));
    bench.run();
    assert_eq!(bench.result(1), None, "it was under way in the second one");
    bench.host.fenced(bench.now, AssociationId(2));
    bench.run();
    assert_eq!(bench.result(1), Some(Ok(())));
}

#[test]
fn a_compare_and_write_that_was_lost_is_not_done_twice() {
    let mut bench = bench(1);
    bench.peer.hold = true;
    bench.memory.insert(RequestId(1), [[0; 4096], [1; 4096]].concat());
    bench.submit(1, Operation::CompareAndWrite { fua: false }, 0, 1);
    bench.run();
    lose(&mut bench, 1);
    bench.peer.held.clear();
    bench.peer.hold = false;
    bench.wait(SECOND);
    assert_eq!(bench.result(1), None);
    bench.host.fenced(bench.now, AssociationId(1));
    bench.run();
    assert_eq!(bench.result(1), Some(Err(BlockError::NotReady)));
    assert!(bench.peer.executed.is_empty());
}

#[test]
fn a_request_that_was_never_sent_waits_for_the_next_association() {
    let mut bench = bench(1);
    lose(&mut bench, 0);
    bench.write(1, 0, 1, 1);
    bench.submit(2, Operation::Flush, 0, 0);
    bench.run();
    assert!(bench.completions.is_empty());
    bench.wait(SECOND);
    assert_eq!((bench.result(1), bench.result(2)), (Some(Ok(())), Some(Ok(()))));
}

#[test]
fn a_late_command_ends_the_association() {
    let mut bench = bench(2);
    bench.peer.hold = true;
    bench.submit(1, Operation::Read, 0, 1);
    bench.run();
    bench.wait(29 * SECOND);
    assert!(bench.is_live());
    bench.peer.hold = false;
    bench.peer.held.clear();
    bench.wait(6 * SECOND);
    assert_eq!(bench.lost(), Some(Error::CommandTimeout(Qid(1))));
    assert_eq!(bench.result(1), Some(Ok(())));
}

#[test]
fn giving_up_completes_what_need_not_be_fenced() {
    let mut config = config(1, 8);
    config.give_up = Some(10 * SECOND);
    let mut bench = Bench::live(config, Peer::new(64));
    bench.peer.hold = true;
    bench.write(1, 0, 1, 1);
    bench.submit(2, Operation::Read, 0, 1);
    bench.run();
    bench.peer.refuse_connections = true;
    lose(&mut bench, 1);
    bench.write(4, 1, 1, 4);
    bench.wait(9 * SECOND);
    assert_eq!((bench.result(2), bench.result(4)), (None, None));
    bench.wait(3 * SECOND);
    assert_eq!(bench.events.last(), Some(&Event::Ended(Some(Error::Closed(Qid(0))))));
    assert_eq!(bench.result(2), Some(Err(BlockError::NotReady)));
    assert_eq!(bench.result(4), Some(Err(BlockError::NotReady)), "it was never sent");
    assert_eq!(bench.result(1), None);
    bench.host.fenced(bench.now, AssociationId(1));
    bench.run();
    assert_eq!(bench.result(1), Some(Err(BlockError::NotReady)));
    assert_eq!(bench.host.outstanding(), 0);
    let request = Request {
        id: RequestId(3),
        operation: Operation::Flush,
        lba: Lba(0),
        blocks: BlockCount(0),
    };
    let refused = bench.host.submit(bench.now, request).expect_err("ended");
    assert_eq!(refused.why, Why::NotLive);
}

#[test]
fn shutting_down_with_writes_under_way_ends_them() {
    let mut bench = bench(1);
    bench.peer.hold = true;
    bench.write(1, 0, 1, 1);
    bench.submit(2, Operation::Read, 0, 1);
    bench.run();
    bench.host.shut_down(bench.now);
    bench.run();
    assert_eq!(bench.events.last(), Some(&Event::Ended(None)));
    // The controller says that it executes nothing any more, which fences the write.
    for id in [1, 2] {
        assert_eq!(bench.result(id), Some(Err(BlockError::NotReady)), "{id}");
    }
}

#[test]
fn the_driver_can_give_up_in_any_state() {
    let mut bench = bench(1);
    bench.submit(1, Operation::Flush, 0, 0);
    bench.host.give_up(bench.now);
    bench.run();
    assert_eq!(bench.events.last(), Some(&Event::Ended(None)));
    assert_eq!(bench.result(1), Some(Err(BlockError::NotReady)));
    bench.host.give_up(bench.now);
    bench.run();
    let mut idle = Host::new(config(1, 8)).expect("good");
    idle.give_up(Monotonic(0));
    assert_eq!(idle.poll(), Some(Action::Event(Event::Ended(None))));
}

#[test]
#[should_panic(expected = "not lost")]
fn an_association_that_is_not_lost_cannot_be_fenced() {
    let mut bench = bench(1);
    bench.host.fenced(bench.now, AssociationId(1));
}
