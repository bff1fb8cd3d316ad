//! Requests: accepting them, giving their pieces to the queues, and what a loss means for them.
//!
//! Before: [`Host::submit`](crate::Host::submit). Next: [`crate::request`] for the commands of one.
//!
//! - Of requests that overlap, and one of which is a change, one is at the controller at a time.
//! - A request is in one place: waiting, under way, or unfenced until its association is fenced. Of one
//!   that is begun in part, the rest waits in front of all others.

use std::collections::VecDeque;

use fathom_block::{self as block, Completion, Operation, Request};
use fathom_nvme::{Status, identify::IoCommands};
use fathom_units::Monotonic;

use super::{Active, Host, Link, State, Token, Unfenced};
use crate::{
    action::{Action, Event, Refused, Why},
    config::REQUESTS_MAX,
    error::Error,
    request::{Outcome, Pending, Piece, Span, Work, error_of},
    setup::Namespace,
};

impl Host {
    pub(super) fn accept(
        &mut self,
        now: Monotonic,
        request: Request,
        work: Work,
    ) -> Result<(), Refused> {
        let refuse = |why| Err(Refused { request, why });
        let Some(namespace) = &self.namespace else { return refuse(Why::NotLive) };
        if matches!(self.state, State::Ended | State::ShuttingDown { .. }) {
            return refuse(Why::NotLive);
        }
        if let Err(why) = check(&request, work, namespace) {
            return refuse(why);
        }
        let pending = Pending::new(request, work);
        if pending.commands() >= self.io_entries() as usize {
            // Both commands of a fused operation have to be under way together.
            return refuse(Why::Unsupported);
        }
        if self.requests.len() >= REQUESTS_MAX {
            return refuse(Why::Full);
        }
        let is_behind = self.is_behind_unfenced(&pending);
        let key = self.requests.insert(pending);
        if is_behind {
            self.unfenced.push_back(Unfenced { key, association: None });
        } else {
            self.waiting.push_back(key);
            self.pump(now);
        }
        Ok(())
    }

    /// Whether a request has to wait behind those that are unfenced: as a change behind all,
    /// else behind the changes that it overlaps.
    fn is_behind_unfenced(&self, pending: &Pending) -> bool {
        if pending.is_change() {
            return !self.unfenced.is_empty();
        }
        let Some(span) = pending.span() else { return false };
        let mut spans = self.unfenced.iter().filter_map(|other| self.requests[other.key].span());
        spans.any(|other| other.conflicts(&span))
    }

    /// Whether blocks are those of a request that is at the controller.
    fn is_behind_active(&self, span: Option<Span>) -> bool {
        span.is_some_and(|span| self.active.iter().any(|active| active.span.conflicts(&span)))
    }

    /// Begins what waits, as far as the queues have room.
    pub(super) fn pump(&mut self, now: Monotonic) {
        if self.state != State::Live {
            return;
        }
        let Some(namespace) = self.namespace else { return };
        while let Some(key) = self.waiting.front().copied() {
            let pending = &mut self.requests[key];
            if pending.is_issued() {
                self.waiting.pop_front();
                continue;
            }
            let (needed, span) = (pending.commands(), pending.span());
            let is_first = !pending.is_begun();
            if is_first && self.is_behind_active(span) {
                return;
            }
            let count = self.links.len() - 1;
            let mut numbers = (0..count).map(|step| 1 + (self.next_queue + step) % count);
            let room = |number: &usize| match &self.links[*number] {
                Link::Up(queue) => queue.room() >= needed,
                _ => false,
            };
            let Some(number) = numbers.find(room) else { return };
            self.next_queue = number % count;
            let Link::Up(queue) = &mut self.links[number] else { unreachable!("just found") };
            let pending = &mut self.requests[key];
            if let Some(span) = span.filter(|_| is_first) {
                self.active.push(Active { key, span });
            }
            pending.issue(key, &namespace, &mut |piece, entry, transfer| {
                queue.begin(Token::Piece(piece), entry, transfer, Some(now));
            });
        }
    }

    pub(super) fn piece_completed(&mut self, piece: Piece, status: Status) {
        match self.requests[piece.key].complete(piece.part, status) {
            None => {}
            Some(Outcome::Completed(status)) => {
                let result = status.map_or(Ok(()), |status| Err(error_of(status)));
                self.complete(piece.key, result, status);
            }
            Some(Outcome::Again) => self.wait_again(piece.key),
        }
    }

    /// A request that is to be begun anew goes in front, but not before one that has been begun in
    /// part: that one stays the first, so that it is found there when it ends.
    pub(super) fn wait_again(&mut self, key: usize) {
        match self.waiting.front() {
            Some(front) if *front == key => {}
            Some(front) if self.requests[*front].is_under_way() => self.waiting.insert(1, key),
            _ => self.waiting.push_front(key),
        }
    }

    fn complete(&mut self, key: usize, result: Result<(), block::Error>, status: Option<Status>) {
        let pending = self.requests.remove(key);
        if let Some(place) = self.active.iter().position(|active| active.key == key) {
            self.active.swap_remove(place);
        }
        // One that failed before all of it was begun still waits in front.
        if self.waiting.front() == Some(&key) {
            self.waiting.pop_front();
        }
        let id = pending.request.id;
        self.actions.push_back(Action::Complete(Completion { id, result }, status));
    }

    /// What is fenced goes on, in its order, up to the first that is not.
    pub(super) fn release(&mut self, now: Monotonic) {
        while let Some(next) = self.unfenced.pop_front_if(|next| next.association.is_none()) {
            let pending = &self.requests[next.key];
            if self.state == State::Ended || (!pending.is_repeatable() && pending.is_under_way()) {
                self.complete(next.key, Err(block::Error::NotReady), None);
            } else {
                self.waiting.push_back(next.key);
            }
        }
        self.pump(now);
    }

    /// Takes the commands under way from the queues. Says whether changes were among them.
    pub(super) fn lose_requests(&mut self) -> bool {
        let mut lost: Vec<usize> = Vec::new();
        for link in &mut self.links {
            if let Link::Up(queue) = link {
                lost.extend(queue.abandon().filter_map(|token| match token {
                    Token::Piece(piece) => Some(piece.key),
                    _ => None,
                }));
            }
            *link = Link::Closed;
        }
        lost.sort_unstable();
        lost.dedup();
        self.active.clear();
        let mut unfenced = false;
        let mut again = VecDeque::new();
        for &key in &lost {
            let pending = &mut self.requests[key];
            let is_change = pending.is_change();
            pending.set_begun(false);
            if pending.is_repeatable() {
                pending.lose();
            }
            if is_change {
                unfenced = true;
                let association = Some(self.association);
                self.unfenced.push_back(Unfenced { key, association });
            } else {
                again.push_back(key);
            }
        }
        // What waited goes behind what was under way; changes wait behind those that are unfenced.
        let waited: Vec<usize> = self.waiting.drain(..).collect();
        for key in waited {
            if lost.binary_search(&key).is_ok() {
                continue;
            }
            self.requests[key].set_begun(false);
            if self.is_behind_unfenced(&self.requests[key]) {
                self.unfenced.push_back(Unfenced { key, association: None });
            } else {
                again.push_back(key);
            }
        }
        self.waiting = again;
        unfenced
    }

    /// There will be no other association.
    pub(super) fn end(&mut self, error: Option<Error>) {
        self.lose_requests();
        self.state = State::Ended;
        let (unfenced, behind) =
            self.unfenced.drain(..).partition(|other: &Unfenced| other.association.is_some());
        self.unfenced = unfenced;
        let behind: VecDeque<Unfenced> = behind;
        for key in std::mem::take(&mut self.waiting) {
            self.complete(key, Err(block::Error::NotReady), None);
        }
        for other in behind {
            self.complete(other.key, Err(block::Error::NotReady), None);
        }
        self.actions.push_back(Action::Event(Event::Ended(error)));
    }
}

/// Whether a request can be done in a namespace.
fn check(request: &Request, work: Work, namespace: &Namespace) -> Result<(), Why> {
    if work == Work::Block(Operation::Flush) {
        return Ok(());
    }
    let blocks = request.blocks.0;
    if blocks == 0 {
        return Err(Why::Malformed(block::Error::InvalidField));
    }
    let end = request.lba.0.checked_add(blocks);
    if end.is_none_or(|end| end > namespace.size.0) {
        return Err(Why::Malformed(block::Error::LbaOutOfRange));
    }
    let needed = match work {
        Work::Deallocate => IoCommands::DATASET_MANAGEMENT,
        Work::Block(Operation::WriteZeroes) => IoCommands::WRITE_ZEROES,
        Work::Block(Operation::Compare | Operation::CompareAndWrite { .. }) => IoCommands::COMPARE,
        Work::Block(_) => IoCommands::empty(),
    };
    if !namespace.commands.contains(needed) {
        return Err(Why::Unsupported);
    }
    if matches!(work, Work::Block(Operation::CompareAndWrite { .. })) {
        if !namespace.compare_and_write {
            return Err(Why::Unsupported);
        }
        if blocks > namespace.compare_write_blocks {
            return Err(Why::Malformed(block::Error::InvalidField));
        }
    }
    Ok(())
}
