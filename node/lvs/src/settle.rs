//! From acknowledged to proof against power cuts: flush rounds, and which blocks may be
//! overwritten in place.
//!
//! ```text
//!  Map appended --> data and entry complete --> a flush covers both --> Settled appended
//!     unsettled         unsettled                  unsettled, frozen        |
//!                                                  settled <-- the log was flushed again
//! ```
//!
//! Each member is flushed in *rounds*, one at a time. A round covers every write that
//! completed before it started. Whoever needs a flush takes a ticket, the number of the
//! round to wait for.
//!
//! - A block is overwritten in place without an entry only when it is settled.
//! - From the moment a round is wanted, blocks that are unsettled by then are *frozen*: not
//!   overwritten until they are settled. The round starts when the overwrites that are
//!   under way have ended. (Rule 3 of `docs/formats/lvs.md`.)

use std::collections::{BTreeMap, VecDeque};

use crate::{
    blocks::BlockSet,
    geometry::{LayerId, LogicalCluster, Lsn, MEMBERS_MAX, MemberIndex},
};

/// The flush rounds of one member.
#[derive(Debug)]
pub(crate) struct Rounds {
    /// A write has completed since the last round started.
    dirty: bool,
    wanted: bool,
    in_flight: bool,
    started: u64,
    completed: u64,
    /// Data writes that a Map names and that have not completed, by the Map's LSN.
    pending: BTreeMap<Lsn, u32>,
    /// Overwrites of unsettled blocks under way.
    overwrites: u32,
    /// Unsettled blocks up to here are not overwritten.
    frozen: Lsn,
    /// What the round under way will have covered: data of Maps, and entries.
    covers_data: Lsn,
    covers_log: Lsn,
    flushed_data: Lsn,
    flushed_log: Lsn,
    /// A Settled operation: what it settles, and its own LSN.
    mark: Option<(Lsn, Lsn)>,
    settled: Lsn,
}

impl Rounds {
    fn new(start: Lsn) -> Self {
        Self {
            dirty: false,
            wanted: false,
            in_flight: false,
            started: 0,
            completed: 0,
            pending: BTreeMap::new(),
            overwrites: 0,
            frozen: start,
            covers_data: start,
            covers_log: start,
            flushed_data: start,
            flushed_log: start,
            mark: None,
            settled: start,
        }
    }

    /// The round that covers every write completed by now. `appended` is the LSN that the
    /// next operation would get.
    pub(crate) fn ticket(&mut self, appended: Lsn) -> u64 {
        if !self.dirty {
            return self.started;
        }
        self.wanted = true;
        self.frozen = self.frozen.max(appended);
        self.started + 1
    }

    /// Has another round cover the data of Maps that the last one did not count: they were in
    /// the open batch, though their data had been written.
    pub(crate) fn want_data(&mut self, appended: Lsn) {
        if !self.in_flight && self.data_complete(appended) > self.flushed_data {
            self.wanted = true;
            self.frozen = self.frozen.max(appended);
        }
    }

    /// Whether round `ticket` has ended.
    pub(crate) fn is_done(&self, ticket: u64) -> bool {
        self.completed >= ticket
    }

    /// Whether the wanted round waits for overwrites.
    pub(crate) fn is_held_up(&self) -> bool {
        self.wanted && !self.in_flight && self.overwrites > 0
    }

    /// Starts the wanted round if it can start now. `appended` as for [`Rounds::ticket`],
    /// `written`: every entry up to it is on this member.
    pub(crate) fn start(&mut self, appended: Lsn, written: Lsn) -> bool {
        if !self.wanted || self.in_flight || self.overwrites > 0 {
            return false;
        }
        self.wanted = false;
        self.dirty = false;
        self.in_flight = true;
        self.started += 1;
        self.frozen = self.frozen.max(appended);
        self.covers_log = written;
        self.covers_data = self.data_complete(appended);
        true
    }

    /// The round under way has ended well.
    pub(crate) fn finish(&mut self) {
        self.in_flight = false;
        self.completed = self.started;
        self.flushed_data = self.flushed_data.max(self.covers_data);
        self.flushed_log = self.flushed_log.max(self.covers_log);
    }

    /// A write has completed.
    pub(crate) fn touched(&mut self) {
        self.dirty = true;
    }

    /// Every entry up to here had been written on the member when a round that has ended started.
    pub(crate) fn flushed_log(&self) -> Lsn {
        self.flushed_log
    }

    /// The last LSN up to which no Map waits for its data.
    pub(crate) fn data_complete(&self, appended: Lsn) -> Lsn {
        let next = self.pending.first_key_value().map_or(appended, |(&lsn, _)| lsn.min(appended));
        Lsn(next.0 - 1)
    }

    /// Data that the Map in entry `lsn` names will be written.
    pub(crate) fn expect_data(&mut self, lsn: Lsn) {
        *self.pending.entry(lsn).or_default() += 1;
    }

    /// Data that the Map in entry `lsn` names has been written, or was taken back.
    pub(crate) fn data_written(&mut self, lsn: Lsn) {
        let count = self.pending.get_mut(&lsn).expect("the data was expected");
        *count -= 1;
        if *count == 0 {
            self.pending.remove(&lsn);
        }
    }

    /// Whether unsettled blocks with these Maps may be overwritten now.
    pub(crate) fn may_overwrite(&self, maps: Maps) -> bool {
        maps.newest <= self.settled || (maps.oldest > self.frozen && !self.wanted)
    }

    /// An overwrite of an unsettled block begins.
    pub(crate) fn begin_overwrite(&mut self) {
        self.overwrites += 1;
    }

    /// An overwrite of an unsettled block has ended.
    pub(crate) fn end_overwrite(&mut self) {
        self.overwrites -= 1;
    }
}

/// The entries in which the Maps of some blocks lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Maps {
    /// None of them is in an earlier entry.
    pub(crate) oldest: Lsn,
    /// None of them is in a later entry.
    pub(crate) newest: Lsn,
}

/// A block of a cluster and a proof of its content.
pub(crate) type Proof = (u16, u64);

/// The most proofs of one fragment that are kept: whatever they are, a chunk of a checkpoint holds
/// them beside the fragment and its lost blocks. Before there are more, the blocks have to be settled.
pub(crate) const FRAGMENT_PROOFS_MAX: usize = 1200;
/// The most proofs of all blocks together, those on absent members apart.
pub(crate) const PROOFS_MAX: usize = 4 * crate::store::UNSETTLED_MAX;

#[derive(Debug)]
struct Unsettled {
    blocks: BlockSet,
    maps: Maps,
    member: MemberIndex,
    /// What proves each block that is valid, in the order of the Maps.
    proofs: Vec<Proof>,
}

/// What is not settled on a member.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    blocks: usize,
    proofs: usize,
}

/// A fragment.
pub(crate) type Place = (LayerId, LogicalCluster);

/// The rounds of all members, and the blocks that are not settled.
#[derive(Debug)]
pub(crate) struct Settlement {
    rounds: BTreeMap<MemberIndex, Rounds>,
    unsettled: BTreeMap<Place, Unsettled>,
    /// Unsettled places per member in the order of their LSN; outdated ones are passed over.
    order: BTreeMap<MemberIndex, VecDeque<(Lsn, Place)>>,
    tallies: [Tally; MEMBERS_MAX],
    /// Members that are missing or lost, a bit per index: what is not settled there stays so.
    absent: u32,
}

impl Settlement {
    /// Nothing is unsettled, everything up to `start` is settled.
    pub(crate) fn new(members: impl Iterator<Item = MemberIndex>, start: Lsn) -> Self {
        Self {
            rounds: members.map(|member| (member, Rounds::new(start))).collect(),
            unsettled: BTreeMap::new(),
            order: BTreeMap::new(),
            tallies: [Tally::default(); MEMBERS_MAX],
            absent: 0,
        }
    }

    /// A member has come on which there is nothing yet. `appended` as for [`Rounds::ticket`].
    pub(crate) fn add_member(&mut self, member: MemberIndex, appended: Lsn) {
        self.rounds.insert(member, Rounds::new(Lsn(appended.0 - 1)));
    }

    /// The rounds of a member.
    ///
    /// # Panics
    ///
    /// When it is no member.
    pub(crate) fn member(&mut self, member: MemberIndex) -> &mut Rounds {
        self.rounds.get_mut(&member).expect("a member of the pool")
    }

    /// Whether it is a member.
    pub(crate) fn knows(&self, member: MemberIndex) -> bool {
        self.rounds.contains_key(&member)
    }

    /// How many members there are.
    pub(crate) fn member_count(&self) -> usize {
        self.rounds.len()
    }

    /// All members.
    pub(crate) fn members(&self) -> impl Iterator<Item = MemberIndex> + '_ {
        self.rounds.keys().copied()
    }

    /// How many blocks are unsettled on members that are there.
    pub(crate) fn blocks(&self) -> usize {
        self.present().map(|tally| tally.blocks).sum()
    }

    /// How many proofs are kept of blocks on members that are there.
    pub(crate) fn proofs(&self) -> usize {
        self.present().map(|tally| tally.proofs).sum()
    }

    fn present(&self) -> impl Iterator<Item = &Tally> {
        let there = |(index, tally): (u32, _)| (self.absent & (1 << index) == 0).then_some(tally);
        (0..16_u32).zip(&self.tallies).filter_map(there)
    }

    /// How many proofs are kept of the blocks of a fragment.
    pub(crate) fn proofs_of(&self, place: Place) -> usize {
        self.unsettled.get(&place).map_or(0, |entry| entry.proofs.len())
    }

    /// Blocks of a fragment on `member` have been named by a Map in entry `lsn`, with these proofs.
    pub(crate) fn add(
        &mut self,
        place: Place,
        blocks: BlockSet,
        lsn: Lsn,
        member: MemberIndex,
        proofs: impl Iterator<Item = Proof>,
    ) {
        let entry = self.unsettled.entry(place).or_insert(Unsettled {
            blocks: BlockSet::EMPTY,
            maps: Maps { oldest: lsn, newest: lsn },
            member,
            proofs: Vec::new(),
        });
        let before = (entry.blocks.count(), entry.proofs.len());
        entry.blocks = entry.blocks | blocks;
        entry.maps.newest = lsn;
        entry.proofs.extend(proofs.filter(|&(block, _)| blocks.contains(block)));
        let tally = &mut self.tallies[usize::from(member.0)];
        tally.blocks += usize::from(entry.blocks.count() - before.0);
        tally.proofs += entry.proofs.len() - before.1;
        self.order.entry(member).or_default().push_back((lsn, place));
    }

    /// Blocks on a member that is missing have to be proved when it is back.
    pub(crate) fn add_absent(&mut self, place: Place, member: MemberIndex, proofs: Vec<Proof>) {
        let mut blocks = BlockSet::EMPTY;
        proofs.iter().for_each(|&(block, _)| blocks.insert_range(block, 1));
        let tally = &mut self.tallies[usize::from(member.0)];
        tally.blocks += usize::from(blocks.count());
        tally.proofs += proofs.len();
        self.absent |= 1 << member.0;
        // Nothing settles them, so that it does not matter where their Maps were.
        let maps = Maps { oldest: Lsn(u64::MAX), newest: Lsn(u64::MAX) };
        self.unsettled.insert(place, Unsettled { blocks, maps, member, proofs });
    }

    /// The member is lost: its unsettled blocks are to be proved when it is back.
    pub(crate) fn lose(&mut self, member: MemberIndex) {
        self.absent |= 1 << member.0;
    }

    /// How many blocks on each member that is not there have to be proved when it is back.
    pub(crate) fn to_prove(&self) -> impl Iterator<Item = (MemberIndex, usize)> + '_ {
        (0..16).map(MemberIndex).filter_map(|member| {
            let blocks = self.tallies[usize::from(member.0)].blocks;
            (self.absent & (1 << member.0) != 0 && blocks > 0).then_some((member, blocks))
        })
    }

    /// What proves the blocks of a fragment, if its member is not there to have them proved.
    pub(crate) fn absent_proofs(&self, place: Place) -> &[Proof] {
        if self.stays_unsettled(place) { &self.unsettled[&place].proofs } else { &[] }
    }

    /// Whether blocks of a fragment are not settled before their member is back.
    pub(crate) fn stays_unsettled(&self, place: Place) -> bool {
        let absent = |entry: &Unsettled| self.absent & (1 << entry.member.0) != 0;
        self.absent != 0 && self.unsettled.get(&place).is_some_and(absent)
    }

    /// A fragment on `member`, which is not there, that has blocks to prove, and those.
    pub(crate) fn next_absent(&self, member: MemberIndex) -> Option<(Place, BlockSet)> {
        if self.absent & (1 << member.0) == 0 {
            return None;
        }
        let of_member =
            |(_, entry): &(&Place, &Unsettled)| entry.member == member && !entry.proofs.is_empty();
        let (&place, entry) = self.unsettled.iter().find(of_member)?;
        let mut blocks = BlockSet::EMPTY;
        entry.proofs.iter().for_each(|&(block, _)| blocks.insert_range(block, 1));
        Some((place, blocks))
    }

    /// How many proofs there are of blocks on members that are not there.
    pub(crate) fn absent_count(&self) -> usize {
        let all: usize = self.tallies.iter().map(|tally| tally.proofs).sum();
        all - self.proofs()
    }

    /// Blocks of a fragment are no longer valid, or were set to what they are by an operation
    /// that needs no proof.
    pub(crate) fn remove(&mut self, place: Place, blocks: BlockSet) {
        self.forget_proofs(place, blocks);
        let Some(entry) = self.unsettled.get_mut(&place) else { return };
        let before = entry.blocks.count();
        entry.blocks = entry.blocks - blocks;
        let tally = &mut self.tallies[usize::from(entry.member.0)];
        tally.blocks -= usize::from(before - entry.blocks.count());
        if entry.blocks.is_empty() {
            self.unsettled.remove(&place);
        }
    }

    /// Blocks of a fragment are no longer valid, but a power cut may bring their Maps back.
    pub(crate) fn forget_proofs(&mut self, place: Place, blocks: BlockSet) {
        let Some(entry) = self.unsettled.get_mut(&place) else { return };
        let before = entry.proofs.len();
        entry.proofs.retain(|&(block, _)| !blocks.contains(block));
        self.tallies[usize::from(entry.member.0)].proofs -= before - entry.proofs.len();
    }

    /// Those of `blocks` of a fragment that are unsettled, and their Maps.
    pub(crate) fn unsettled(&self, place: Place, blocks: BlockSet) -> Option<(BlockSet, Maps)> {
        let entry = self.unsettled.get(&place)?;
        let touched = entry.blocks & blocks;
        (!touched.is_empty()).then_some((touched, entry.maps))
    }

    /// Whether any of `count` blocks of a fragment from `first` is unsettled.
    pub(crate) fn is_unsettled(&self, place: Place, first: u16, count: u16) -> bool {
        if self.unsettled.is_empty() {
            return false;
        }
        let touched =
            |entry: &Unsettled| !(entry.blocks & BlockSet::range(first, count)).is_empty();
        self.unsettled.get(&place).is_some_and(touched)
    }

    /// Whether `member` has unsettled blocks.
    fn has_unsettled(&self, member: MemberIndex) -> bool {
        self.order.get(&member).is_some_and(|order| !order.is_empty())
    }

    /// Looks at what has been flushed. Returns the Settled operations to append, as (member, LSN).
    pub(crate) fn advance(&mut self, log_durable: Lsn) -> Vec<(MemberIndex, Lsn)> {
        let members: Vec<MemberIndex> = self.rounds.keys().copied().collect();
        let mut marks = Vec::new();
        for member in members {
            let rounds = self.member(member);
            if let Some((value, entry)) = rounds.mark
                && entry <= log_durable
            {
                rounds.mark = None;
                self.settle(member, value);
            }
            let oldest = self.order.get(&member).and_then(VecDeque::front).map(|&(lsn, _)| lsn);
            let Some(oldest) = oldest else { continue };
            let rounds = self.member(member);
            rounds.settled = rounds.settled.max(Lsn(oldest.0 - 1));
            let value = rounds.flushed_data.min(log_durable);
            if rounds.mark.is_none() && value >= oldest {
                marks.push((member, value));
            }
        }
        marks
    }

    /// The Settled operation for `member` is in entry `lsn`.
    pub(crate) fn marked(&mut self, member: MemberIndex, value: Lsn, lsn: Lsn) {
        self.member(member).mark = Some((value, lsn));
    }

    /// Everything on `member` up to `value` is settled, durably.
    pub(crate) fn settle(&mut self, member: MemberIndex, value: Lsn) {
        let rounds = self.member(member);
        rounds.settled = rounds.settled.max(value);
        let Some(order) = self.order.get_mut(&member) else { return };
        while order.front().is_some_and(|&(lsn, _)| lsn <= value) {
            let (lsn, place) = order.pop_front().expect("it was there");
            if self.unsettled.get(&place).is_some_and(|entry| entry.maps.newest == lsn)
                && let Some(entry) = self.unsettled.remove(&place)
            {
                let tally = &mut self.tallies[usize::from(entry.member.0)];
                tally.blocks -= usize::from(entry.blocks.count());
                tally.proofs -= entry.proofs.len();
            }
        }
    }

    /// What has to happen next so that the unsettled blocks of `member` become settled.
    pub(crate) fn next_step(&mut self, member: MemberIndex, log_completed: Lsn) -> Step {
        if !self.has_unsettled(member) || self.absent & (1 << member.0) != 0 {
            return Step::Nothing;
        }
        match self.member(member).mark {
            Some((_, entry)) if entry <= log_completed => Step::FlushLog,
            Some((_, entry)) => Step::WriteLog(entry),
            None => Step::FlushAll,
        }
    }
}

/// What brings settlement forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Nothing,
    /// Flush the member and the log.
    FlushAll,
    /// Write the log up to this entry.
    WriteLog(Lsn),
    /// Flush the log.
    FlushLog,
}
