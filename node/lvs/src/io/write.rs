//! Writing: in place, or with a Map that proves the data.
//!
//! - *Edges* are the first and last block of a write that covers them only in part: they
//!   are read, changed and written whole.
//! - Placing decides for each cluster: in place, or a Map with proofs, with a new cluster
//!   where there is none. It changes nothing until everything it needs is there.
//! - Data that overwrites an unsettled block starts when the entry with its proof is complete.
//! - Data that could not be written is taken back: the blocks are what they were before.

use fathom_block::{Buffer, Error, Operation};

use super::{Part, Stage, to_usize};
use crate::{
    action::{IoData, IoKind, Payloads},
    blocks::BlockSet,
    format::{
        checksum::{self, LOST},
        op::Op,
    },
    geometry::{BLOCK, BLOCK_LEN, ClusterNo, LayerId, LogicalCluster, Lsn, MemberIndex},
    map::Fragment,
    settle::{FRAGMENT_PROOFS_MAX, Maps, PROOFS_MAX},
    state::Source,
    store::{Store, TaskKey, UNSETTLED_MAX, Work},
};

/// A block that the request covers in part.
pub(super) struct Edge {
    block: u64,
    pub(super) buffer: Buffer,
}

/// What a write does to one cluster.
pub(super) struct Piece {
    at: LogicalCluster,
    first: u16,
    count: u16,
    cluster: ClusterNo,
    member: MemberIndex,
    /// The entry of its Map, and the blocks that the Map made valid.
    pub(super) mapped: Option<(Lsn, BlockSet)>,
    /// It overwrites unsettled blocks that have these Maps.
    pub(super) overwrites: Option<Maps>,
    /// Blocks that were lost before.
    lost: BlockSet,
    issued: bool,
    outstanding: u32,
    failed: bool,
}

/// What placing a write came to.
pub(super) enum Placed {
    Yes,
    Stalled,
    No(Error),
}

/// What a write needs in one cluster before anything is changed.
struct Plan {
    at: LogicalCluster,
    first: u16,
    count: u16,
    before: Fragment,
    /// Blocks that a Map has to name, as first and count, and which of them are not settled.
    map: Option<(u16, u16, BlockSet)>,
    overwrites: Option<Maps>,
}

impl Store {
    /// Reads the blocks that the request covers in part.
    pub(super) fn load_edges(&mut self, key: TaskKey, layer: LayerId) {
        let (begin, stop) = self.byte_range(key);
        let task = self.io_task(key);
        let (first, end) = (task.first, task.end);
        let mut blocks = Vec::new();
        if !begin.is_multiple_of(BLOCK) {
            blocks.push(first);
        }
        if !stop.is_multiple_of(BLOCK) && blocks.last() != Some(&(end - 1)) {
            blocks.push(end - 1);
        }
        if blocks.is_empty() {
            return;
        }
        self.begin_reading(key);
        for (index, block) in blocks.into_iter().enumerate() {
            let edge = Edge { block, buffer: Buffer::zeroed(BLOCK_LEN) };
            self.io_task(key).edges.push(edge);
            let (at, within) = self.state.cluster_size.split(block);
            if let (Source::Data(cluster), _) = self.state.find(layer, at, within, within + 1) {
                if !self.is_reachable(cluster) {
                    return self.io_task(key).fail(Error::NotReady);
                }
                if self.state.is_lost(cluster, within, 1) {
                    return self.io_task(key).fail(Error::ReadFault);
                }
                let (member, offset) = self.locate(cluster, within);
                let data = IoData::Owned(Buffer::zeroed(BLOCK_LEN));
                let part = Part::Edge { index };
                self.part_io(key, part, member, IoKind::Read, offset, BLOCK_LEN, data);
            }
        }
    }

    /// Puts the request's data, or zeros, into the edges.
    pub(super) fn change_edges(&mut self, key: TaskKey, payloads: &dyn Payloads) {
        if let Some(epoch) = self.io_task(key).epoch.take() {
            self.epochs.end(epoch);
        }
        let (begin, stop) = self.byte_range(key);
        let written_from = self.written_from(key);
        let task = self.io_task(key);
        if core::mem::replace(&mut task.edges_changed, true) {
            return;
        }
        let (id, zeroes) = (task.request.id, task.request.operation == Operation::WriteZeroes);
        for edge in &mut task.edges {
            let edge_begin = edge.block * BLOCK;
            let (from, to) = (edge_begin.max(begin), (edge_begin + BLOCK).min(stop));
            let inside = to_usize(from - edge_begin)..to_usize(to - edge_begin);
            let target = &mut edge.buffer.bytes_mut()[inside];
            if zeroes {
                target.fill(0);
            } else {
                let bytes = &payloads.bytes(id)[to_usize(written_from)..];
                target.copy_from_slice(&bytes[to_usize(from - begin)..to_usize(to - begin)]);
            }
        }
    }

    /// Decides where the data goes, and starts what can be started.
    pub(super) fn place(&mut self, key: TaskKey, payloads: &dyn Payloads) -> Placed {
        if self.has_failed() {
            return Placed::No(Error::NotReady);
        }
        let task = self.io_task(key);
        if let Some(error) = task.error {
            return Placed::No(error);
        }
        let object = task.object;
        let (first, end) = (task.first, task.end);
        let layer = match self.devices.get(object) {
            Ok(device) => device.layer,
            Err(error) => return Placed::No(error),
        };
        let task = self.io_task(key);
        task.layer = Some(layer);
        let ranges: Vec<(u64, u64)> = if task.request.operation == Operation::WriteZeroes {
            task.edges.iter().map(|edge| (edge.block, edge.block + 1)).collect()
        } else {
            vec![(first, end)]
        };
        let mut plans = Vec::new();
        for (first, end) in ranges {
            for (at, first, count) in self.pieces(first, end) {
                let plan = self.plan(layer, at, first, count);
                let before = plan.before.cluster;
                if before.is_some_and(|cluster| !self.is_reachable(cluster)) {
                    return Placed::No(Error::NotReady);
                }
                if let (Some(maps), Some(cluster)) = (plan.overwrites, before) {
                    let (member, _) = self.locate(cluster, 0);
                    if !self.settlement.member(member).may_overwrite(maps) {
                        self.stall_for_settlement(key);
                        return Placed::Stalled;
                    }
                }
                plans.push(plan);
            }
        }
        let mapped: usize =
            plans.iter().filter_map(|plan| plan.map.as_ref()).map(|map| usize::from(map.1)).sum();
        if mapped > 0 {
            if !self.metadata_has_room() {
                if !self.reclaim_may_help() {
                    return Placed::No(Error::CapacityExceeded);
                }
                self.space_wanted = true;
                self.stall(key);
                return Placed::Stalled;
            }
            if !self.log_has_room() {
                self.stall(key);
                return Placed::Stalled;
            }
            let too_many = |plan: &Plan| {
                let proofs = plan.map.as_ref().map_or(0, |map| usize::from(map.1));
                self.settlement.proofs_of((layer, plan.at)) + proofs > FRAGMENT_PROOFS_MAX
            };
            if self.settlement.blocks() + mapped > UNSETTLED_MAX
                || self.settlement.proofs() + mapped > PROOFS_MAX
                || plans.iter().any(too_many)
            {
                self.stall_for_settlement(key);
                return Placed::Stalled;
            }
        }
        let mut new: Vec<LogicalCluster> =
            plans.iter().filter(|plan| plan.before.cluster.is_none()).map(|plan| plan.at).collect();
        new.dedup();
        let clusters = new.len();
        let members = match self.admit_clusters(key, object, clusters as u64) {
            Ok(Some(members)) => members,
            Ok(None) => return Placed::Stalled,
            Err(error) => return Placed::No(error),
        };
        for plan in plans {
            self.carry_out(key, layer, plan, members, payloads);
        }
        Placed::Yes
    }

    fn plan(&mut self, layer: LayerId, at: LogicalCluster, first: u16, count: u16) -> Plan {
        let before = self.state.fragment(layer, at);
        let span = BlockSet::range(first, count);
        let fresh = span - before.valid;
        let unsettled = self.settlement.unsettled((layer, at), span);
        let (overwritten, overwrites) = match unsettled {
            Some((blocks, maps)) => (blocks, Some(maps)),
            None => (BlockSet::EMPTY, None),
        };
        let lost = before.cluster.map_or(BlockSet::EMPTY, |cluster| self.state.lost_of(cluster));
        let named = fresh | overwritten | (lost & span);
        let map = bounds(named).map(|(first, count)| (first, count, named));
        Plan { at, first, count, before, map, overwrites }
    }

    fn carry_out(
        &mut self,
        key: TaskKey,
        layer: LayerId,
        plan: Plan,
        members: u32,
        payloads: &dyn Payloads,
    ) {
        // Not the plan's: the other edge of a request may have brought a cluster meanwhile.
        let holds = self.state.fragment(layer, plan.at).cluster;
        let cluster = holds.unwrap_or_else(|| {
            self.alloc.take(members).expect("admit_clusters found that many free ones")
        });
        let (member, _) = self.locate(cluster, 0);
        let mut lost = BlockSet::EMPTY;
        let mapped = plan.map.map(|(first, count, named)| {
            let proofs = self.proofs(key, plan.at, first, count, payloads);
            let op = Op::Map { layer, at: plan.at, cluster, first, proofs: proofs.clone() };
            let before = self
                .state
                .map_blocks(layer, plan.at, cluster, first, count)
                .expect("the plan was made from this fragment");
            self.count_fragment(before.is_absent(), false);
            let lsn = self.append(key, &[op]);
            // What was lost is lost again, should its new content not be there.
            lost = self.state.lost_of(cluster) & BlockSet::range(first, count) & named;
            self.state.rewrite_lost(cluster, lost);
            let marks = lost.runs().flat_map(|(first, count)| first..first + count);
            let proofs = marks.map(|block| (block, LOST)).chain((first..).zip(proofs));
            self.settlement.add((layer, plan.at), named, lsn, member, proofs);
            self.settlement.member(member).expect_data(lsn);
            (lsn, BlockSet::range(first, count) - before.valid)
        });
        // The overwritten blocks were acknowledged, so their Maps are in entries before this one,
        // though another block of the cluster may be named in it, too.
        let overwrites = match (plan.overwrites, &mapped) {
            (Some(maps), &Some((own, _))) => {
                Some(Maps { newest: maps.newest.min(Lsn(own.0 - 1)), ..maps })
            }
            _ => None,
        };
        let task = self.io_task(key);
        task.pieces.push(Piece {
            at: plan.at,
            first: plan.first,
            count: plan.count,
            cluster,
            member,
            mapped,
            overwrites,
            lost,
            issued: false,
            outstanding: 0,
            failed: false,
        });
        let index = task.pieces.len() - 1;
        if overwrites.is_none() {
            self.issue_piece(key, index);
        }
    }

    /// The proofs of the new content of blocks of a cluster.
    fn proofs(
        &mut self,
        key: TaskKey,
        at: LogicalCluster,
        first: u16,
        count: u16,
        payloads: &dyn Payloads,
    ) -> Vec<u64> {
        let seed = self.seed;
        let (begin, _) = self.byte_range(key);
        let written_from = self.written_from(key);
        let start = u64::from(at.0) * u64::from(self.state.blocks());
        let task = self.io_task(key);
        (first..first + count)
            .map(|block| {
                let block = start + u64::from(block);
                match task.edges.iter().find(|edge| edge.block == block) {
                    Some(edge) => checksum::proof(seed, edge.buffer.bytes()),
                    None => {
                        let offset = to_usize(written_from + block * BLOCK - begin);
                        let bytes = payloads.bytes(task.request.id);
                        checksum::proof(seed, &bytes[offset..offset + BLOCK_LEN])
                    }
                }
            })
            .collect()
    }

    /// Starts the member I/O of a piece: edges from their buffers, the rest from the request.
    fn issue_piece(&mut self, key: TaskKey, index: usize) {
        let (begin, _) = self.byte_range(key);
        let written_from = self.written_from(key);
        let start_of_cluster = u64::from(self.state.blocks());
        let task = self.io_task(key);
        let id = task.request.id;
        let fua = matches!(
            task.request.operation,
            Operation::Write { fua: true } | Operation::CompareAndWrite { fua: true }
        );
        let object = task.object;
        let fua = fua || self.state.volumes.get(&object).is_some_and(|v| v.flags.write_cache_off);
        let task = self.io_task(key);
        let piece = &mut task.pieces[index];
        piece.issued = true;
        let kind = IoKind::Write { fua: fua && piece.mapped.is_none() };
        let (first, count, cluster) = (piece.first, piece.count, piece.cluster);
        let start = u64::from(piece.at.0) * start_of_cluster;
        let overwrites = piece.overwrites.is_some();
        let mut runs: Vec<(u16, u16, Option<Buffer>)> = Vec::new();
        for block in first..first + count {
            let edge = task.edges.iter().find(|edge| edge.block == start + u64::from(block));
            match (edge, runs.last_mut()) {
                (Some(edge), _) => runs.push((block, 1, Some(edge.buffer.clone()))),
                (None, Some((_, length, None))) => *length += 1,
                (None, _) => runs.push((block, 1, None)),
            }
        }
        let outstanding = u32::try_from(runs.len()).expect("at most a cluster of blocks");
        task.pieces[index].outstanding = outstanding;
        for (block, length, edge) in runs {
            let (member, offset) = self.locate(cluster, block);
            let bytes = usize::from(length) * BLOCK_LEN;
            let data = match edge {
                Some(buffer) => IoData::Owned(buffer),
                None => {
                    let block = start + u64::from(block);
                    let offset = to_usize(written_from + block * BLOCK - begin);
                    IoData::Request { id, offset }
                }
            };
            self.part_io(key, Part::Write { piece: index }, member, kind, offset, bytes, data);
        }
        if overwrites {
            let (member, _) = self.locate(cluster, 0);
            self.settlement.member(member).begin_overwrite();
        }
    }

    /// The file system under a member has no space for the data of a request.
    pub(crate) fn find_no_space(&mut self, key: TaskKey) {
        if let Work::Io(task) = &mut self.tasks[key].work {
            task.fail(Error::CapacityExceeded);
        }
    }

    pub(super) fn piece_io_done(&mut self, key: TaskKey, index: usize, failed: bool) {
        let task = self.io_task(key);
        if failed {
            task.fail(Error::WriteFault);
        }
        let piece = &mut task.pieces[index];
        piece.failed |= failed;
        piece.outstanding -= 1;
        if piece.outstanding > 0 {
            return;
        }
        let (member, mapped, failed) = (piece.member, piece.mapped, piece.failed);
        if piece.overwrites.is_some() {
            self.settlement.member(member).end_overwrite();
        }
        if let (Some((lsn, _)), false) = (mapped, failed) {
            self.settlement.member(member).data_written(lsn);
        }
    }

    /// Everything that was started has ended, and the entry is complete: goes on with what waited
    /// for the entry. Nothing when that has to wait longer.
    pub(super) fn writing_done(&mut self, key: TaskKey, operation: Operation) -> Option<Stage> {
        let waiting: Vec<usize> = self
            .io_task(key)
            .pieces
            .iter()
            .enumerate()
            .filter(|(_, piece)| !piece.issued)
            .map(|(index, _)| index)
            .collect();
        if !waiting.is_empty() && !self.has_failed() {
            // Each waits for older entries only, and another piece may be the older one.
            let mut stalled = true;
            for index in waiting {
                let piece = &self.io_task(key).pieces[index];
                let (member, maps) = (piece.member, piece.overwrites);
                let maps = maps.expect("only overwrites of unsettled blocks wait");
                if !self.is_present(member) {
                    // It was given up meanwhile; the data is taken back below.
                    let task = self.io_task(key);
                    task.fail(Error::WriteFault);
                    task.pieces[index].issued = true;
                    task.pieces[index].failed = true;
                    stalled = false;
                } else if self.settlement.member(member).may_overwrite(maps) {
                    self.issue_piece(key, index);
                    stalled = false;
                }
            }
            if stalled {
                self.stall_for_settlement(key);
                return None;
            }
            return Some(Stage::Data);
        }
        self.take_back(key);
        let task = self.io_task(key);
        Some(match (task.error, operation) {
            (Some(_), _) => Stage::Finish,
            (None, Operation::WriteZeroes) => Stage::Unmap,
            (None, _) => Stage::Sync,
        })
    }

    /// Blocks that were lost, and whose new content was not written, are lost as before.
    fn lose_again(&mut self, key: TaskKey) {
        let task = self.io_task(key);
        let Some(layer) = task.layer else { return };
        let failed = task.pieces.iter_mut().filter(|piece| piece.failed || !piece.issued);
        let lost: Vec<_> = failed
            .map(|piece| {
                (piece.at, piece.cluster, core::mem::replace(&mut piece.lost, BlockSet::EMPTY))
            })
            .collect();
        for (at, cluster, blocks) in lost {
            for (first, count) in blocks.runs() {
                let proofs = vec![LOST; usize::from(count)];
                self.append(key, &[Op::Map { layer, at, cluster, first, proofs }]);
            }
            if !blocks.is_empty() {
                self.settlement.remove((layer, at), blocks);
                self.state.lose(cluster, blocks);
            }
        }
    }

    /// Undoes the Maps of pieces whose data was not written.
    fn take_back(&mut self, key: TaskKey) {
        self.lose_again(key);
        let task = self.io_task(key);
        let layer = task.layer;
        let failed: Vec<_> = task
            .pieces
            .iter_mut()
            .filter(|piece| piece.failed || !piece.issued)
            .filter_map(|piece| piece.mapped.take().map(|map| (piece.at, piece.member, map)))
            .collect();
        let per_cluster = u64::from(self.state.blocks());
        for (at, member, (lsn, fresh)) in failed {
            let layer = layer.expect("a placed write has a layer");
            for (first, count) in fresh.runs() {
                // Not opaque: what was below shows again, and blocks that were zeroed stay so.
                let (before, freed) = self
                    .state
                    .unmap_blocks(layer, at, first, count, false)
                    .expect("the layer is written to");
                self.unmapped(layer, at, before, freed);
                let first_block = u64::from(at.0) * per_cluster + u64::from(first);
                let blocks = u64::from(count);
                let op = Op::Unmap { layer, opaque: false, first_block, blocks };
                let entry = self.append(key, &[op]);
                self.give_back(freed, entry);
            }
            self.settlement.member(member).data_written(lsn);
        }
    }
}

/// The smallest run that holds all blocks of a set, as first and count.
fn bounds(blocks: BlockSet) -> Option<(u16, u16)> {
    let mut runs = blocks.runs();
    let (first, count) = runs.next()?;
    let (last, length) = runs.last().unwrap_or((first, count));
    Some((first, last + length - first))
}
