//! Growing the pool: a member that has grown, a new member, and a metadata copy that joins.
//!
//! ```text
//!  a larger member   Resize -------------------------> Segment -> Logged -> Done
//!  a new member      Propose -> Include -> Confirm --> Segment -> Logged -> (join) -> Done
//!  a stale member                                                           (join) -> Done
//!  (join)            Wipe -> Wiped -> Follow -> Checkpoint -> Vouch -> InSync
//! ```
//!
//! The labels come first, then the segment: what a PutMember in the log says of a member, every
//! label says already. A new metadata copy is not copied from another one. It is made by writing
//! to it what all copies get, log entries first, and then one whole checkpoint that begins after
//! them.
//!
//! - One such call at a time.
//! - A crash at any point leaves the pool as it was or grown, and the call can be made again.
//! - Until the last update of labels has begun, a new copy that fails costs nothing but the call.
//!
//! Source: `docs/formats/lvs.md` sections 2.2 to 2.4.

use fathom_block::{Buffer, Error as BlockError};
use fathom_units::{ByteCount, ByteOffset};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    acceptance::{SEGMENTS_MAX, log_least},
    action::{Action, IoData, IoKind},
    admin::{Failed, Refused, Ticket},
    candidate::{Candidate, Content},
    format::{
        checksum::LOST,
        label::{
            DATA_OFFSET, LABEL_SIZE, Label, LabelMember, MemberRole, MemberState, label_offsets,
        },
        op::Op,
    },
    geometry::{BLOCK, BLOCK_LEN, CLUSTERS_MAX, ClusterNo, MEMBERS_MAX, MemberIndex, Segment},
    labels::LabelChange,
    log::Ring,
    store::{Route, Store, TaskKey, Work},
};

/// Bytes that one write of zeros covers.
const WIPE_BYTES: usize = 128 << 10;
/// Writes of zeros under way at once.
const WIPES_MAX: usize = 4;

/// Why a member cannot be added, enlarged or made a copy. Nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum MemberRefused {
    /// Another call that changes members is under way.
    #[error("members of the pool are being changed already; wait for that to end")]
    Busy,
    /// A member is missing, has failed, or takes no labels.
    #[error("member {} is missing or has failed; all have to be there", .0.0)]
    NotWhole(MemberIndex),
    /// What was written to the member is still under way, past its deadline.
    #[error("member {} has not answered yet what it was asked long ago", .0.0)]
    Late(MemberIndex),
    /// The member is there: nothing on it is lost.
    #[error("member {} is there; what is on it need not be given up", .0.0)]
    NotLost(MemberIndex),
    /// There is no such member, or it is no metadata member.
    #[error("the pool has no metadata member {}", .0.0)]
    NoCopy(MemberIndex),
    /// The device is a member already.
    #[error("the device is member {} of the pool already", .0.0)]
    IsMember(MemberIndex),
    /// A pool has no room for another member.
    #[error("a pool has {MEMBERS_MAX} members at most")]
    TooMany,
    /// A member cannot become smaller.
    #[error("member {} has {size} and cannot shrink to {wanted}", member.0)]
    Shrinks {
        /// The member.
        member: MemberIndex,
        /// Its size.
        size: ByteCount,
        /// The size that was asked for.
        wanted: ByteCount,
    },
    /// The device has no room for what a member holds, and one cluster.
    #[error("the device has {size}, and {needed} are needed at least")]
    TooSmall {
        /// Its size.
        size: ByteCount,
        /// The least size.
        needed: ByteCount,
    },
    /// The log is too short for one more member.
    #[error("the log has {size}, and {needed} are needed for one more member")]
    LogTooSmall {
        /// What it has.
        size: ByteCount,
        /// What it needs.
        needed: ByteCount,
    },
    /// There are no numbers left for clusters, or no room for segments.
    #[error("the pool cannot number more clusters or segments")]
    TooLarge,
    /// The device belongs to a pool.
    #[error("the device belongs to pool \"{pool}\" ({uuid}); force would destroy it")]
    Labelled {
        /// The name of the pool.
        pool: String,
        /// Its UUID.
        uuid: Uuid,
    },
    /// The device is not empty.
    #[error("the device is not empty: it has {}; force would destroy it", Content::Other { offset: *offset, what: *what })]
    Foreign {
        /// The first byte that is not zero.
        offset: u64,
        /// What it looks like, if that is known.
        what: Option<&'static str>,
    },
    /// The device has what was a label.
    #[error("the device has {0}; force would destroy it")]
    Remains(Box<Content>),
}

/// A device to be added to a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addition {
    /// Its UUID as a member, random. A call that a crash ended is made again with the same one.
    pub uuid: Uuid,
    /// What [`crate::inspect`] found on it.
    pub candidate: Candidate,
    /// Overwrite what is on it.
    pub force: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Propose(LabelMember),
    Include(LabelMember),
    Confirm,
    Resize(u64),
    Segment,
    Logged,
    Wipe { next: usize },
    Wiped,
    Follow,
    Checkpoint { wanted: u64 },
    Vouch,
    InSync,
    Accept,
    Accepted,
    Done,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Propose(_) | Self::Include(_) | Self::Confirm | Self::Resize(_) => {
                "writing labels"
            }
            Self::Segment | Self::Logged => "adding its space",
            Self::Wipe { .. } | Self::Wiped => "clearing its metadata copy",
            Self::Follow | Self::Checkpoint { .. } => "writing its metadata copy",
            Self::Vouch | Self::InSync => "recording its metadata copy",
            Self::Accept | Self::Accepted => "giving up what is lost on it",
            Self::Done => "ending",
        }
    }
}

/// A call that changes members, as it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberChange {
    /// The member.
    pub member: MemberIndex,
    /// What is being done, in words.
    pub step: &'static str,
}

/// A call that changes members, under way.
pub(crate) struct GrowTask {
    ticket: Ticket,
    member: MemberIndex,
    stage: Stage,
    /// An update of labels has been asked for, and how it ended.
    labels: Option<Option<bool>>,
    error: Option<BlockError>,
}

impl GrowTask {
    pub(crate) fn fail(&mut self, error: BlockError) {
        self.error.get_or_insert(error);
    }

    pub(crate) fn label_changed(&mut self, done: bool) {
        self.labels = Some(Some(done));
    }

    /// A label may say by now that the member's copy is whole.
    pub(crate) fn has_vouched(&self) -> bool {
        matches!(self.stage, Stage::Vouch | Stage::InSync)
    }

    pub(crate) fn describe(&self) -> String {
        format!("member {} in stage {:?}", self.member.0, self.stage)
    }
}

impl Store {
    /// Adds a device as a new member. The driver carries out what is asked of the returned member
    /// on that device from now on, also when the call fails. The second member of a pool gets
    /// a copy of the metadata. When the call has ended, the pool is larger, durably.
    ///
    /// A call that a crash ended is made again with the same UUID, and goes on where it was.
    ///
    /// # Errors
    ///
    /// When the device, the pool or its members do not allow it.
    pub fn add_member(&mut self, new: &Addition) -> Result<(Ticket, MemberIndex), Refused> {
        self.may_change_members()?;
        if let Some(member) = self.member_of(new.uuid) {
            return Ok((self.start_growing(member, Stage::Segment), member));
        }
        let (member, entry, label) = self.proposal(new)?;
        self.labels.insert(member, label);
        Ok((self.start_growing(member, Stage::Propose(entry)), member))
    }

    /// Whether [`Store::add_member`] would take a device that is no member yet. Nothing changes.
    ///
    /// # Errors
    ///
    /// When the device, the pool or its members do not allow it, or it is a member already.
    pub fn check_addition(&self, new: &Addition) -> Result<(), Refused> {
        self.may_change_members()?;
        if let Some(member) = self.member_of(new.uuid) {
            return Err(MemberRefused::IsMember(member).into());
        }
        self.proposal(new).map(drop)
    }

    /// What becomes a member when this device is added: its index, its entry and its first label.
    fn proposal(&self, new: &Addition) -> Result<(MemberIndex, LabelMember, Label), Refused> {
        let count = self.member_table().len();
        if count >= MEMBERS_MAX {
            return Err(MemberRefused::TooMany.into());
        }
        let member = MemberIndex(u16::try_from(count).expect("16 at most"));
        if self.is_late(member) {
            return Err(MemberRefused::Late(member).into());
        }
        let entry = self.new_entry(new)?;
        let label = self.proposed_label(member, entry);
        label.check()?;
        self.may_overwrite(new, &label)?;
        Ok((member, entry, label))
    }

    /// The member with this UUID.
    pub fn member_of(&self, uuid: Uuid) -> Option<MemberIndex> {
        let known = self.member_table().iter().position(|entry| entry.uuid == uuid)?;
        Some(MemberIndex(u16::try_from(known).expect("16 at most")))
    }

    /// The UUID under which a call of [`Store::add_member`] has to be made again that a crash ended
    /// when the device was only proposed; none when this is no such device.
    pub fn proposed_before(&self, candidate: &Candidate) -> Option<Uuid> {
        let Content::Label(label) = &candidate.content else { return None };
        let own = self.labels.values().next().expect("an open pool has labels");
        let proposed = label.members[usize::from(label.index.0)].state == MemberState::Proposed;
        (proposed && label.pool == own.pool).then_some(label.member)
    }

    /// Whether the driver still has to carry out I/O on a member. When adding one has failed it has
    /// not, if the device did not become a member.
    pub fn has_member(&self, member: MemberIndex) -> bool {
        self.labels.contains_key(&member)
    }

    /// Where the next device that is added will have metadata, as offset and length in bytes, but for
    /// labels. Nothing when it will have data only.
    pub fn metadata_of_addition(&self) -> Vec<(u64, u64)> {
        let first = self.labels.values().find(|label| !label.log.is_empty());
        let first = first.filter(|_| self.member_table().len() == 1);
        let lists = first.into_iter().flat_map(|label| [&label.slot_a, &label.slot_b, &label.log]);
        lists.flatten().map(|extent| (extent.offset, extent.length)).collect()
    }

    /// Takes note that a member's device has grown to `size` bytes, and uses what was added. When
    /// the call has ended, the pool is larger, durably. It may be made again with the same size.
    ///
    /// # Errors
    ///
    /// When the member would shrink, or the pool does not allow it.
    pub fn grow_member(&mut self, member: MemberIndex, size: u64) -> Result<Ticket, Refused> {
        self.may_change_members()?;
        let Some(entry) = self.member_table().get(usize::from(member.0)).copied() else {
            return Err(Refused::NoMember(member));
        };
        let size = size / BLOCK * BLOCK;
        if size < entry.size {
            let (size, wanted) = (ByteCount(entry.size), ByteCount(size));
            return Err(MemberRefused::Shrinks { member, size, wanted }.into());
        }
        self.missing_segment(member, &LabelMember { size, ..entry })?;
        let stage = if size == entry.size { Stage::Segment } else { Stage::Resize(size) };
        Ok(self.start_growing(member, stage))
    }

    /// Makes the metadata copy of a member whole that is stale or still being made. When the call
    /// has ended, it is in sync, durably.
    ///
    /// # Errors
    ///
    /// When the member has no metadata, has I/O under way past its deadline, or some member is
    /// missing.
    pub fn rejoin_member(&mut self, member: MemberIndex) -> Result<Ticket, Refused> {
        self.may_change_members()?;
        match self.member_table().get(usize::from(member.0)) {
            Some(entry) if entry.role == MemberRole::DataAndMetadata => {}
            _ => return Err(MemberRefused::NoCopy(member).into()),
        }
        if self.is_late(member) {
            return Err(MemberRefused::Late(member).into());
        }
        Ok(self.start_growing(member, Stage::Logged))
    }

    /// Gives up what waits to be proved on a member that is missing or lost. Reading those blocks is
    /// an error from then on, also when the member is back, until they are written or zeroed. When
    /// the call has ended, that is durable.
    ///
    /// # Errors
    ///
    /// When the member is there.
    pub fn accept_loss(&mut self, member: MemberIndex) -> Result<Ticket, Refused> {
        if self.has_failed() {
            return Err(Refused::Failed("its metadata could not be written"));
        }
        if self.growing {
            return Err(MemberRefused::Busy.into());
        }
        if usize::from(member.0) >= self.member_table().len() {
            return Err(Refused::NoMember(member));
        }
        if self.is_present(member) {
            return Err(MemberRefused::NotLost(member).into());
        }
        Ok(self.start_growing(member, Stage::Accept))
    }

    /// The call that changes members, if one is under way.
    pub fn changing_members(&self) -> Option<MemberChange> {
        let work = self.tasks.iter().map(|(_, task)| &task.work);
        work.into_iter().find_map(|work| match work {
            Work::Grow(GrowTask { member, stage, .. }) => {
                Some(MemberChange { member: *member, step: stage.name() })
            }
            _ => None,
        })
    }

    /// How many blocks are lost.
    pub fn lost_blocks(&self) -> u64 {
        self.state.lost_blocks()
    }

    /// The blocks of the next fragment are given up.
    fn give_up_blocks(&mut self, key: TaskKey, member: MemberIndex) {
        let Some((place, blocks)) = self.settlement.next_absent(member) else {
            return self.go_on(key, Stage::Accepted);
        };
        if !self.log_has_room() {
            return self.stall(key);
        }
        let (layer, at) = place;
        let cluster = self.state.fragment(layer, at).cluster;
        let cluster = cluster.expect("what has a proof lies in a cluster");
        for (first, count) in blocks.runs() {
            let proofs = vec![LOST; usize::from(count)];
            self.append(key, &[Op::Map { layer, at, cluster, first, proofs }]);
        }
        self.settlement.remove(place, blocks);
        self.state.lose(cluster, blocks);
        self.wake(key);
    }

    fn may_change_members(&self) -> Result<(), Refused> {
        if self.has_failed() {
            return Err(Refused::Failed("its metadata could not be written"));
        }
        if self.growing || self.label_changes.becoming_stale() != 0 {
            return Err(MemberRefused::Busy.into());
        }
        let members = (0..16).map(MemberIndex).zip(self.member_table());
        let lacks = |member| !self.is_present(member) || !self.label_changes.takes(member);
        match members.map(|(member, _)| member).find(|&member| lacks(member)) {
            Some(member) => Err(MemberRefused::NotWhole(member).into()),
            None => Ok(()),
        }
    }

    /// The table entry of a new member, once it is one.
    fn new_entry(&self, new: &Addition) -> Result<LabelMember, Refused> {
        let table = self.member_table();
        let copies = table.iter().filter(|entry| entry.role == MemberRole::DataAndMetadata);
        // The first two members have the metadata; a later one never makes up for one of them.
        let second = table.len() == 1 && copies.count() == 1;
        let (role, state) = if second {
            (MemberRole::DataAndMetadata, MemberState::Joining)
        } else {
            (MemberRole::Data, MemberState::InSync)
        };
        let size = new.candidate.size.0 / BLOCK * BLOCK;
        let entry = LabelMember { uuid: new.uuid, size, role, state };
        let cluster = u64::from(self.state.cluster_size.bytes());
        let needed = self.data_begins(role) + cluster + LABEL_SIZE as u64;
        if size < needed {
            let (size, needed) = (new.candidate.size, ByteCount(needed));
            return Err(MemberRefused::TooSmall { size, needed }.into());
        }
        let copy = self.labels.values().find(|label| !label.log.is_empty());
        let log = copy.map_or(0, |label| Ring::new(&label.log).length());
        let needed = log_least(self.state.cluster_size, table.len() + 1);
        if log < needed {
            let (size, needed) = (ByteCount(log), ByteCount(needed));
            return Err(MemberRefused::LogTooSmall { size, needed }.into());
        }
        let member = MemberIndex(u16::try_from(table.len()).expect("16 at most"));
        self.missing_segment(member, &entry)?;
        Ok(entry)
    }

    fn may_overwrite(&self, new: &Addition, label: &Label) -> Result<(), Refused> {
        if new.force || new.candidate.is_left_from(label) {
            return Ok(());
        }
        match &new.candidate.content {
            Content::Nothing => Ok(()),
            Content::Label(found) => {
                let (pool, uuid) = (found.name.clone(), found.pool);
                Err(MemberRefused::Labelled { pool, uuid }.into())
            }
            &Content::Other { offset, what } => Err(MemberRefused::Foreign { offset, what }.into()),
            Content::Damaged(_) | Content::Tombstone(_) => {
                Err(MemberRefused::Remains(Box::new(new.candidate.content.clone())).into())
            }
        }
    }

    /// The first label of a new member.
    fn proposed_label(&self, member: MemberIndex, entry: LabelMember) -> Label {
        let mut label = self.labels.values().next().expect("an open pool has labels").clone();
        (label.index, label.member, label.member_size) = (member, entry.uuid, entry.size);
        if entry.role == MemberRole::Data {
            for extents in [&mut label.slot_a, &mut label.slot_b, &mut label.log] {
                extents.clear();
            }
        }
        label.members.push(LabelMember { state: MemberState::Proposed, ..entry });
        label
    }

    /// Where the clusters of a new member begin, in bytes.
    fn data_begins(&self, role: MemberRole) -> u64 {
        let metadata = self.labels.values().find(|label| !label.log.is_empty());
        let extents = metadata.filter(|_| role == MemberRole::DataAndMetadata);
        let lists = extents.into_iter().flat_map(|l| [&l.slot_a, &l.slot_b, &l.log]);
        let ends = lists.flatten().map(|extent| extent.offset + extent.length);
        let begin = ends.max().unwrap_or(DATA_OFFSET);
        begin.next_multiple_of(u64::from(self.state.cluster_size.bytes()))
    }

    /// The segment that a member described by `entry` still lacks; none when it has no room for
    /// one more cluster.
    fn missing_segment(
        &self,
        member: MemberIndex,
        entry: &LabelMember,
    ) -> Result<Option<Segment>, Refused> {
        let cluster = u64::from(self.state.cluster_size.bytes());
        let own = self.state.members.get(&member).map_or(&[][..], Vec::as_slice);
        let end_of = |segment: &Segment| segment.offset.0 + u64::from(segment.clusters) * cluster;
        let begin = own.iter().map(end_of).max();
        let begin = begin.unwrap_or_else(|| self.data_begins(entry.role));
        let clusters = label_offsets(entry.size)[2].saturating_sub(begin) / cluster;
        if clusters == 0 {
            return Ok(None);
        }
        let all = || self.state.members.values().flatten();
        let first = all().map(|segment| segment.first.0 + segment.clusters).max().unwrap_or(0);
        let fits = u32::try_from(clusters)
            .is_ok_and(|more| first.checked_add(more).is_some_and(|next| next <= CLUSTERS_MAX));
        let mut segments = own.to_vec();
        let clusters = u32::try_from(clusters).unwrap_or(u32::MAX);
        let segment = Segment { first: ClusterNo(first), clusters, offset: ByteOffset(begin) };
        segments.push(segment);
        let bytes = Op::PutMember { member, segments }.encoded_len(self.state.blocks());
        if !fits || all().count() >= SEGMENTS_MAX || bytes > self.log.payload_max() {
            return Err(MemberRefused::TooLarge.into());
        }
        Ok(Some(segment))
    }

    fn start_growing(&mut self, member: MemberIndex, stage: Stage) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.growing = true;
        let task = GrowTask { ticket, member, stage, labels: None, error: None };
        let key = self.spawn(Work::Grow(task));
        self.wake(key);
        ticket
    }

    fn grow_task(&mut self, key: TaskKey) -> &mut GrowTask {
        match &mut self.tasks[key].work {
            Work::Grow(task) => task,
            _ => unreachable!("the key names growing"),
        }
    }

    pub(crate) fn step_grow(&mut self, key: TaskKey) {
        if self.has_failed() {
            self.grow_task(key).fail(BlockError::NotReady);
        }
        let (member, stage) = (self.grow_task(key).member, self.grow_task(key).stage);
        if self.grow_task(key).error.is_some() && stage != Stage::Done {
            return self.end_growing(key);
        }
        match stage {
            Stage::Propose(entry) => match self.relabel(key, LabelChange::Propose(member)) {
                Some(true) => self.go_on(key, Stage::Include(entry)),
                Some(false) => {
                    self.labels.remove(&member);
                    self.label_changes.forget(member);
                    self.grow_task(key).fail(BlockError::WriteFault);
                    self.end_growing(key);
                }
                None => {}
            },
            Stage::Include(entry) => {
                self.after_labels(key, LabelChange::Include(member, entry), Stage::Confirm);
            }
            Stage::Confirm => {
                self.after_labels(key, LabelChange::Confirm(member), Stage::Segment);
            }
            Stage::Resize(size) => {
                self.after_labels(key, LabelChange::Resize(member, size), Stage::Segment);
            }
            Stage::Segment => self.log_segment(key, member),
            Stage::Logged => self.begin_join(key, member),
            Stage::Wipe { next } => self.wipe(key, member, next),
            Stage::Wiped => {
                self.grow_task(key).stage = Stage::Follow;
                self.flush(key, 1 << member.0, false);
                self.wake(key);
            }
            Stage::Follow => self.follow(key, member),
            Stage::Checkpoint { wanted } => self.await_checkpoint(key, wanted),
            Stage::Vouch => {
                self.after_labels(key, LabelChange::Vouch(member), Stage::InSync);
            }
            Stage::InSync => {
                // From here on it is a copy like any other, on which the others may be recorded.
                self.joining = None;
                self.after_labels(key, LabelChange::InSync(member), Stage::Done);
            }
            Stage::Accept => self.give_up_blocks(key, member),
            Stage::Accepted => {
                self.grow_task(key).stage = Stage::Done;
                self.flush(key, 0, true);
                self.wake(key);
            }
            Stage::Done => self.end_growing(key),
        }
    }

    fn go_on(&mut self, key: TaskKey, stage: Stage) {
        self.grow_task(key).stage = stage;
        self.wake(key);
    }

    /// Asks for an update of labels once; later on, how it ended.
    fn relabel(&mut self, key: TaskKey, change: LabelChange) -> Option<bool> {
        match self.grow_task(key).labels {
            None => {
                self.grow_task(key).labels = Some(None);
                self.change_labels(change, Some(key));
                None
            }
            Some(None) => None,
            Some(Some(done)) => {
                self.grow_task(key).labels = None;
                Some(done)
            }
        }
    }

    /// Goes on with `stage` when the labels have been changed.
    fn after_labels(&mut self, key: TaskKey, change: LabelChange, stage: Stage) {
        match self.relabel(key, change) {
            Some(true) => self.go_on(key, stage),
            Some(false) => {
                self.grow_task(key).fail(BlockError::WriteFault);
                self.end_growing(key);
            }
            None => {}
        }
    }

    /// Every label knows the member and its size: its clusters are added.
    fn log_segment(&mut self, key: TaskKey, member: MemberIndex) {
        if !self.log_has_reserve() {
            return self.stall(key);
        }
        let entry = self.member_table()[usize::from(member.0)];
        // Nothing has changed since the call was checked: there is only one at a time.
        if let Ok(Some(segment)) = self.missing_segment(member, &entry) {
            let mut segments = self.state.members.get(&member).cloned().unwrap_or_default();
            segments.push(segment);
            self.commit(key, &[Op::PutMember { member, segments }]);
            self.alloc.add(member, segment, true);
            self.unreclaimable.clear();
            self.mark_progress();
        }
        self.grow_task(key).stage = Stage::Logged;
        self.wake(key);
    }

    /// The segment's entry is complete: it is made durable, and a copy joins if it has to.
    fn begin_join(&mut self, key: TaskKey, member: MemberIndex) {
        let entry = self.member_table()[usize::from(member.0)];
        let whole = entry.role == MemberRole::Data || self.copies & (1 << member.0) != 0;
        self.grow_task(key).stage = if whole { Stage::Done } else { Stage::Wipe { next: 0 } };
        self.flush(key, 0, true);
        self.wake(key);
    }

    /// Overwrites slot headers and log with zeros, a few pieces at a time.
    fn wipe(&mut self, key: TaskKey, member: MemberIndex, next: usize) {
        let label = &self.labels[&member];
        let headers = [&label.slot_a, &label.slot_b].map(|slot| (slot[0].offset, BLOCK));
        let log = label.log.iter().flat_map(|extent| {
            let pieces = (0..extent.length).step_by(WIPE_BYTES);
            pieces.map(|at| (extent.offset + at, (WIPE_BYTES as u64).min(extent.length - at)))
        });
        let pieces: Vec<(u64, u64)> =
            headers.into_iter().chain(log).skip(next).take(WIPES_MAX).collect();
        if pieces.is_empty() {
            return self.go_on(key, Stage::Wiped);
        }
        self.grow_task(key).stage = Stage::Wipe { next: next + pieces.len() };
        for (offset, bytes) in pieces {
            let length = usize::try_from(bytes).expect("a short piece");
            debug_assert!(length.is_multiple_of(BLOCK_LEN), "extents are whole blocks");
            let data = IoData::Owned(Buffer::zeroed(length));
            let kind = IoKind::Write { fua: false };
            self.start_io(Route::Join { key }, member, kind, offset, length, data);
        }
    }

    /// From now on the member gets every log entry; then a checkpoint begins.
    fn follow(&mut self, key: TaskKey, member: MemberIndex) {
        if self.checkpointing {
            return self.stall(key);
        }
        self.copies |= 1 << member.0;
        self.joining = Some((member, key));
        let wanted = self.checkpoint_generation + 1;
        self.start_checkpoint();
        self.grow_task(key).stage = Stage::Checkpoint { wanted };
        self.stall(key);
    }

    fn await_checkpoint(&mut self, key: TaskKey, wanted: u64) {
        if self.checkpointing {
            return self.stall(key);
        }
        if self.checkpoint_generation >= wanted {
            return self.go_on(key, Stage::Vouch);
        }
        // It failed on another copy, which is recorded as stale by now.
        self.start_checkpoint();
        self.stall(key);
    }

    fn end_growing(&mut self, key: TaskKey) {
        let task = self.grow_task(key);
        let (ticket, error) = (task.ticket, task.error);
        self.growing = false;
        self.finish(key, &[]);
        let result = error.map_or(Ok(()), |error| Err(Failed::Device(error)));
        self.act(Action::Done { ticket, result });
    }
}
