//! The defects: mistakes that programmers make, each a change of the store's source.
//!
//! The rules that they break are those of `docs/formats/lvs.md`. A defect stays in this list only
//! while the crash enumeration finds it. When the code changes so that a defect's text no longer
//! stands in its file exactly once, a test here says so.

/// A change of the store's source that makes it wrong.
#[derive(Debug)]
pub(crate) struct Defect {
    pub(crate) name: &'static str,
    /// What the store then does.
    pub(crate) wrong: &'static str,
    /// The module of `node/lvs/src`, as a path.
    file: &'static str,
    pub(crate) changes: &'static [Change],
}

/// A text that stands in the file exactly once, and what it becomes.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) find: &'static str,
    pub(crate) replacement: &'static str,
}

impl Defect {
    /// The file that is changed, relative to the repository's root.
    pub(crate) fn path(&self) -> String {
        format!("node/lvs/src/{}.rs", self.file)
    }

    /// The text of its file with the defect.
    ///
    /// # Errors
    ///
    /// Says which of its changes does not fit.
    pub(crate) fn planted(&self, sound: &str) -> Result<String, String> {
        let mut text = sound.to_owned();
        for Change { find, replacement } in self.changes {
            let times = text.matches(find).count();
            if times != 1 {
                let (name, path) = (self.name, self.path());
                return Err(format!("{name}: {times} times in {path}, not once: {find}"));
            }
            text = text.replacen(find, replacement, 1);
        }
        Ok(text)
    }
}

/// Every defect.
pub(crate) const DEFECTS: &[Defect] = &[
    // What a write may claim, and when.
    Defect {
        name: "write-before-its-entry",
        wrong: "A write is acknowledged before the entry with its Map is complete.",
        file: "io/write",
        changes: &[Change {
            find: r"let lsn = self.append(key, &[op]);
            // What",
            replacement: r"let lsn = self.log.append(&[op], true);
            // What",
        }],
    },
    Defect {
        name: "write-before-its-data",
        wrong: "A write in place is acknowledged before its data has completed.",
        file: "io",
        changes: &[Change { find: "if waits.io > 0 || entry_open", replacement: "if entry_open" }],
    },
    Defect {
        name: "unmap-before-its-entry",
        wrong: "Zeroing is acknowledged before the entry with its Unmap is complete.",
        file: "io/unmap",
        changes: &[
            Change {
                find: r"let lsn = self.append(key, &[op]);
            self.give_back(freed, lsn);",
                replacement: r"let lsn = self.log.append(&[op], true);
            self.give_back(freed, lsn);",
            },
            // Otherwise it waits for every entry at its end.
            Change { find: "self.wait_for_entry(key, lsn);", replacement: "let _ = lsn;" },
        ],
    },
    Defect {
        name: "unmap-shows-the-parent",
        wrong: "Zeroed blocks are not opaque where a parent has data.",
        file: "io/unmap",
        changes: &[Change {
            find: "let opaque = self.state.shows_through(layer, at);",
            replacement: "let opaque = false;",
        }],
    },
    Defect {
        name: "fua-in-place-without-fua",
        wrong: "A write in place that has to be durable is written without FUA.",
        file: "io/write",
        changes: &[Change {
            find: "IoKind::Write { fua: fua && piece.mapped.is_none() }",
            replacement: "IoKind::Write { fua: false }",
        }],
    },
    Defect {
        name: "write-through-not-flushed",
        wrong: "With the write cache off, a write that needed a Map is acknowledged unflushed.",
        file: "io",
        changes: &[Change { find: "(fua || !cached) && mapped", replacement: "fua && mapped" }],
    },
    Defect {
        name: "fua-not-flushed",
        wrong: "A FUA write that needed a Map is acknowledged unflushed.",
        file: "io",
        changes: &[Change { find: "(fua || !cached) && mapped", replacement: "!cached && mapped" }],
    },
    Defect {
        name: "zeroing-not-flushed",
        wrong: "With the write cache off, zeroing is acknowledged unflushed.",
        file: "io",
        changes: &[Change {
            find: "Operation::WriteZeroes => !cached,",
            replacement: "Operation::WriteZeroes => false,",
        }],
    },
    Defect {
        name: "flush-without-the-log",
        wrong: "A flush is acknowledged without flushing the members that hold the log.",
        file: "io",
        changes: &[Change {
            find: "self.flush(key, members, true);",
            replacement: "self.flush(key, members, false);",
        }],
    },
    Defect {
        name: "overlapping-writes-together",
        wrong: "Writes of the same blocks are under way at once.",
        file: "ranges",
        changes: &[Change {
            find: "blockers.extend(self.write);",
            replacement: r"if hold != Hold::Write {
                blockers.extend(self.write);
            }",
        }],
    },
    Defect {
        name: "waiting-claims-overtaken",
        wrong: "A request overtakes an older one that waits for the same blocks.",
        file: "ranges",
        changes: &[Change {
            find: "for &blocker in &blockers {",
            replacement: r"blockers.retain(|blocker| self.claims[blocker.0 as usize].blockers == 0);
        for &blocker in &blockers {",
        }],
    },
    Defect {
        name: "fused-shares-its-range",
        wrong: "A fused Compare and Write lets others touch its range between compare and write.",
        file: "store",
        changes: &[Change {
            find: "operation if operation.is_change() => Some(Hold::Write),",
            replacement: r"Operation::CompareAndWrite { .. } => Some(Hold::Read),
                    operation if operation.is_change() => Some(Hold::Write),",
        }],
    },
    Defect {
        name: "fused-fua-in-place-without-fua",
        wrong: "A fused Compare and Write with FUA is written in place without it.",
        file: "io/write",
        changes: &[Change {
            find: "Operation::Write { fua: true } | Operation::CompareAndWrite { fua: true }",
            replacement: "Operation::Write { fua: true }",
        }],
    },
    // Unsettled blocks: rules 1 to 4.
    Defect {
        name: "unsettled-overwritten-without-proof",
        wrong: "An unsettled block is overwritten in place without a new proof.",
        file: "io/write",
        changes: &[Change {
            find: "let named = fresh | overwritten | (lost & span);",
            replacement: "let named = fresh | (lost & span);
        let _ = overwritten;",
        }],
    },
    Defect {
        name: "overwrite-before-its-proof",
        wrong: "An unsettled block is overwritten before the entry with the new proof is complete.",
        file: "io/write",
        changes: &[Change {
            find: r"if overwrites.is_none() {
            self.issue_piece",
            replacement: r"if true {
            self.issue_piece",
        }],
    },
    Defect {
        name: "frozen-overwritten",
        wrong: "A block is overwritten between a flush that covers it and its Settled operation.",
        file: "settle",
        changes: &[Change {
            find: "(maps.oldest > self.frozen && !self.wanted)",
            replacement: "!self.wanted",
        }],
    },
    Defect {
        name: "flush-joins-round-under-way",
        wrong: "A flush counts the round that began before the writes it has to cover.",
        file: "settle",
        changes: &[Change {
            find: "self.started + 1",
            replacement: "self.started + u64::from(!self.in_flight)",
        }],
    },
    Defect {
        name: "flush-covers-data-under-way",
        wrong: "A flush is taken to cover data that was still being written.",
        file: "settle",
        changes: &[Change {
            find: "self.covers_data = self.data_complete(appended);",
            replacement: "self.covers_data = Lsn(appended.0 - 1);",
        }],
    },
    Defect {
        name: "flush-covers-entries-under-way",
        wrong: "A flush is taken to cover entries that were still being written.",
        file: "settle",
        changes: &[Change {
            find: "self.covers_log = written;",
            replacement: "self.covers_log = Lsn(appended.0 - 1);",
        }],
    },
    Defect {
        name: "settled-before-its-entry-is-durable",
        wrong: "Blocks count as settled when the Settled operation is appended, not when it is durable.",
        file: "settle",
        changes: &[Change { find: "&& entry <= log_durable", replacement: "" }],
    },
    Defect {
        name: "settled-what-is-not-flushed",
        wrong: "Settled is appended for data that has not been flushed.",
        file: "settle",
        changes: &[Change {
            find: "let value = rounds.flushed_data.min(log_durable);",
            replacement: "let value = log_durable;",
        }],
    },
    Defect {
        name: "direct-overwrite-of-unsettled-blocks",
        wrong: "The quick path overwrites blocks that are not settled without a proof.",
        file: "direct",
        changes: &[Change {
            find: "if hold == Hold::Write
            && self",
            replacement: "if false
            && self",
        }],
    },
    Defect {
        name: "direct-without-its-range",
        wrong: "The quick path does not wait for requests that overlap.",
        file: "direct",
        changes: &[Change {
            find: "let Some(claim) = self.try_acquire(object, first, end, hold) else { return false };",
            replacement: "let Some(claim) = self.try_acquire(object, u64::MAX - 1, u64::MAX, Hold::Read) else { return false };",
        }],
    },
    Defect {
        name: "direct-first-write",
        wrong: "The quick path takes blocks of an ancestor for blocks of the volume.",
        file: "direct",
        changes: &[Change {
            find: "let cluster = if hold == Hold::Read {",
            replacement: "let cluster = if hold != Hold::Barrier {",
        }],
    },
    // The log.
    Defect {
        name: "entries-acknowledged-out-of-order",
        wrong: "An entry counts as complete before those before it.",
        file: "log",
        changes: &[Change {
            find: r#"while self.in_flight.front().is_some_and(|entry| entry.missing == 0) {
            let entry = self.in_flight.pop_front().expect("it was there");
            self.completed = entry.lsn;"#,
            replacement: r#"while let Some(at) = self.in_flight.iter().position(|entry| entry.missing == 0) {
            let entry = self.in_flight.remove(at).expect("it was there");
            self.completed = self.completed.max(entry.lsn);"#,
        }],
    },
    Defect {
        name: "log-room-not-kept",
        wrong: "Requests are admitted though the log has no room for their entries.",
        file: "log",
        changes: &[Change {
            find: "self.used() < self.ring.length() / 4 * 3 && self.leaves(",
            replacement: "self.used() < self.ring.length() * 3 || self.leaves(",
        }],
    },
    Defect {
        name: "durable-lsn-too-high",
        wrong: "Entries state a durable LSN that is only complete.",
        file: "log",
        changes: &[Change {
            find: r"durable: self.durable,
            previous",
            replacement: r"durable: self.completed,
            previous",
        }],
    },
    // Checkpoints.
    Defect {
        name: "checkpoint-header-before-flush",
        wrong: "A checkpoint's header is written before its chunks and data are flushed.",
        file: "checkpoint",
        changes: &[Change {
            find: "self.flush(key, members, true);",
            replacement: "let _ = members;",
        }],
    },
    Defect {
        name: "tail-cut-before-the-header",
        wrong: "The log's tail moves before the checkpoint's header is written.",
        file: "checkpoint",
        changes: &[Change {
            find: "Stage::Header => self.write_header(key),",
            replacement: r"Stage::Header => {
                let start = self.checkpoint_task(key).start;
                self.log.cut(start.position, self.checkpoint_generation);
                self.write_header(key);
            }",
        }],
    },
    Defect {
        name: "checkpoint-before-its-data",
        wrong: "A checkpoint does not wait for the data that its chunks name.",
        file: "checkpoint",
        changes: &[Change {
            find: "self.settlement.member(member).data_complete(open) >= highest",
            replacement: "open >= highest",
        }],
    },
    Defect {
        name: "chunk-in-an-open-batch",
        wrong: "A chunk is captured in the middle of an entry.",
        file: "checkpoint",
        changes: &[Change {
            find: r"let lsn = self.log.close();
        let (payload",
            replacement: r"let lsn = self.log.append(&[Op::PutPool(self.state.pool.clone())], true);
        let (payload",
        }],
    },
    Defect {
        name: "checkpoint-in-the-valid-slot",
        wrong: "Opening writes its checkpoint over the valid one.",
        file: "open",
        changes: &[Change {
            find: "let extents = if generation.is_multiple_of(2)",
            replacement: "let extents = if !generation.is_multiple_of(2)",
        }],
    },
    Defect {
        name: "opening-header-before-flush",
        wrong: "Opening writes its checkpoint's header before the chunks are flushed.",
        file: "open",
        changes: &[Change {
            find: r"for &copy in copies {
        medium.flush(copy)?;
    }
",
            replacement: "",
        }],
    },
    Defect {
        name: "copies-not-leveled",
        wrong: "Opening writes over the only whole checkpoint of a copy that a crash left behind.",
        file: "leveling",
        changes: &[Change {
            find: "let mut changed: Vec<usize> = Vec::new();",
            replacement: r"let mut changed: Vec<usize> = Vec::new();
    if position > 0 {
        return Ok(());
    }",
        }],
    },
    // Labels and growing: sections 2.2 to 2.4.
    Defect {
        name: "labels-half-written",
        wrong: "An update of labels counts as done when copy 0 has been written, unflushed.",
        file: "labels",
        changes: &[Change {
            find: "Step::First => Step::FirstFlush,",
            replacement: "Step::First => return self.label_update_done(),",
        }],
    },
    Defect {
        name: "labels-left-in-disagreement",
        wrong: "Opening leaves labels apart that an update did not reach.",
        file: "open",
        changes: &[Change {
            find: "bring_into_agreement(medium, &mut labels, &table)?;",
            replacement: "",
        }],
    },
    Defect {
        name: "member-before-its-label",
        wrong: "The other labels name a new member before it has a label.",
        file: "grow",
        changes: &[Change {
            find: "match self.relabel(key, LabelChange::Propose(member)) {",
            replacement: "match Some(true) {",
        }],
    },
    Defect {
        name: "segment-over-the-label",
        wrong: "The segment that is added reaches over the last label copy.",
        file: "grow",
        changes: &[Change {
            find: "label_offsets(entry.size)[2].saturating_sub(begin) / cluster",
            replacement: "entry.size.saturating_sub(begin) / cluster",
        }],
    },
    Defect {
        name: "joined-without-a-checkpoint",
        wrong: "A copy counts that has no checkpoint to go with its log.",
        file: "grow",
        changes: &[Change {
            find: r"let wanted = self.checkpoint_generation + 1;
        self.start_checkpoint();",
            replacement: "let wanted = self.checkpoint_generation;",
        }],
    },
    Defect {
        name: "joined-without-the-log",
        wrong: "A copy counts that got no log entries.",
        file: "grow",
        changes: &[Change { find: "self.copies |= 1 << member.0;", replacement: "" }],
    },
    // Members that are lost or missing: section 6.1.
    Defect {
        name: "checkpoint-survives-a-loss",
        wrong: "A checkpoint under way goes on when a member is lost whose data it took for flushed.",
        file: "members",
        changes: &[Change { find: "self.fail_checkpoint();", replacement: "" }],
    },
    Defect {
        name: "proofs-left-out-of-checkpoints",
        wrong: "A checkpoint takes what waits for its proof on a lost member for proved.",
        file: "checkpoint",
        changes: &[Change {
            find: "let unproved = proofs((layer, at));",
            replacement: "let unproved = &proofs((layer, at))[..0];",
        }],
    },
    Defect {
        name: "older-proofs-forgotten",
        wrong: "Of the proofs of a block on a lost member only the newest is kept.",
        file: "settle",
        changes: &[Change {
            find: "let before = (entry.blocks.count(), entry.proofs.len());",
            replacement: r"let before = (entry.blocks.count(), entry.proofs.len());
        let kept: Vec<Proof> = entry.proofs.iter().copied().filter(|p| !blocks.contains(p.0)).collect();
        self.tallies[usize::from(member.0)].proofs -= entry.proofs.len() - kept.len();
        entry.proofs = kept;
        let before = (before.0, entry.proofs.len());",
        }],
    },
    Defect {
        name: "proofs-of-missing-members-forgotten",
        wrong: "Opening without a member forgets what has to be proved on it.",
        file: "replay",
        changes: &[Change {
            find: "kept.extend(proofs.into_iter().map(|proof| (block, proof)));",
            replacement: "kept.extend(proofs.into_iter().take(0).map(|proof| (block, proof)));",
        }],
    },
    Defect {
        name: "proofs-of-trimmed-blocks",
        wrong: "A block on a lost member that was trimmed before is mapped again by a checkpoint.",
        file: "io/unmap",
        changes: &[Change {
            find: "self.settlement.forget_proofs((layer, at), gone);",
            replacement: "let _ = gone;",
        }],
    },
    Defect {
        name: "lost-blocks-left-out-of-checkpoints",
        wrong: "A checkpoint takes blocks that were given up for good ones.",
        file: "checkpoint",
        changes: &[Change {
            find: "fragment.cluster.map_or(BlockSet::EMPTY, |cluster| state.lost_of(cluster));",
            replacement: "BlockSet::EMPTY;
            let _ = state;",
        }],
    },
    // Replay.
    Defect {
        name: "abandoned-future",
        wrong: "Replay goes on with intact entries of an abandoned future.",
        file: "scan",
        changes: &[
            Change {
                find: "found.lsn == end.lsn && found.previous == end.previous;",
                replacement: "found.lsn == end.lsn;",
            },
            Change { find: "if header.incarnation < incarnation {", replacement: "if false {" },
        ],
    },
    Defect {
        name: "proofs-ignored",
        wrong: "A block whose content matches no proof counts.",
        file: "replay",
        changes: &[Change {
            find: "if proofs.contains(&checksum::proof(places.seed, &content)) {",
            replacement: "if !proofs.is_empty() {",
        }],
    },
    Defect {
        name: "only-the-newest-proof",
        wrong: "Of the Maps of a block only the last one is tried.",
        file: "replay",
        changes: &[Change {
            find: "unproved.proofs.push(proof);",
            replacement: "unproved.proofs = vec![proof];",
        }],
    },
    Defect {
        name: "rejected-block-stays-valid",
        wrong: "A block that cannot be proved keeps its bit.",
        file: "replay",
        changes: &[Change { find: "fragment.valid.remove_range(block, 1);", replacement: "" }],
    },
    Defect {
        name: "settled-on-every-member",
        wrong: "A Settled operation counts for the Maps of all members.",
        file: "replay",
        changes: &[Change {
            find: "member.and_then(|member| settled.get(&member)).is_some_and",
            replacement: "member.and_then(|_| settled.values().max()).is_some_and",
        }],
    },
    // Space: rule 5.
    Defect {
        name: "cluster-reused-before-durable",
        wrong: "A cluster is used again before the entry that gave it back is durable.",
        file: "alloc",
        changes: &[Change {
            find: "head.freed_by > durable || head.epoch >= oldest_read",
            replacement: "head.epoch >= oldest_read",
        }],
    },
    Defect {
        name: "discard-before-durable",
        wrong: "A cluster is discarded before the entry that gave it back is durable.",
        file: "alloc",
        changes: &[Change {
            find: "head.freed_by > durable || head.epoch >= oldest_read",
            replacement: r"head.freed_by > durable && !self.is_discarded(head.cluster)
                || head.epoch >= oldest_read",
        }],
    },
    Defect {
        name: "cluster-used-while-discarded",
        wrong: "A cluster is used again while its discard is under way.",
        file: "alloc",
        changes: &[Change {
            find: "self.discards.insert(first, count);",
            replacement: r"self.discards.insert(first, 0);
        (first.0..first.0 + count).for_each(|cluster| self.end_return(ClusterNo(cluster)));",
        }],
    },
    Defect {
        name: "cluster-never-given-back",
        wrong: "Unmapping all blocks of a cluster does not give it back.",
        file: "io/unmap",
        changes: &[Change {
            find: r"let lsn = self.append(key, &[op]);
            self.give_back(freed, lsn);",
            replacement: r"self.append(key, &[op]);
            drop(freed);",
        }],
    },
    Defect {
        name: "thick-reserve-not-kept",
        wrong: "Thin writes take the space that is reserved for thick volumes.",
        file: "space",
        changes: &[Change {
            find: "let reserved = if volume.flags.thick { 0 } else { self.reserved() };",
            replacement: "let reserved = 0;",
        }],
    },
    Defect {
        name: "thick-reserve-forgotten",
        wrong: "A snapshot of a thick volume does not reserve the space of its next writes.",
        file: "admin",
        changes: &[Change {
            find: "if volume.flags.thick { self.state.layer(tip).map.allocated() as u64 } else { 0 }",
            replacement: "u64::from(volume.flags.thick && self.state.layer(tip).map.allocated() == usize::MAX)",
        }],
    },
    // Snapshots, volumes and layers: rule 7.
    Defect {
        name: "call-not-flushed",
        wrong: "A call is acknowledged before what it changed is durable.",
        file: "admin",
        changes: &[Change {
            find: "self.flush(key, members, true);",
            replacement: "let _ = members;",
        }],
    },
    Defect {
        name: "snapshot-without-barrier",
        wrong: "A snapshot does not wait for the writes that were submitted before it.",
        file: "admin",
        changes: &[Change {
            find: "self.call(Call::Snapshot(new), holds, Hold::Barrier)",
            replacement: "self.call(Call::Snapshot(new), Vec::new(), Hold::Barrier)",
        }],
    },
    Defect {
        name: "clone-without-barrier",
        wrong: "A clone does not wait for the writes that were submitted before it.",
        file: "admin",
        changes: &[Change {
            find: "self.call(Call::Create(Box::new(new)), holds, Hold::Barrier)",
            replacement: "self.call(Call::Create(Box::new(new)), Vec::new(), Hold::Barrier)",
        }],
    },
    Defect {
        name: "rollback-under-writes",
        wrong: "A rollback does not wait for the requests that were submitted before it.",
        file: "admin",
        changes: &[Change {
            find: "self.call(Call::Rollback(volume, snapshot), vec![volume], Hold::Write)",
            replacement: "self.call(Call::Rollback(volume, snapshot), Vec::new(), Hold::Write)",
        }],
    },
    Defect {
        name: "held-back-out-of-order",
        wrong: "A request overtakes one that it overlaps, because limits hold that one back.",
        file: "qos",
        changes: &[Change {
            find: "(Some(behind), Some(other)) => other.number > behind,",
            replacement: "(Some(_), Some(_)) => true,",
        }],
    },
    Defect {
        name: "snapshot-data-not-flushed",
        wrong: "A snapshot is acknowledged before the data of its volume is durable.",
        file: "admin",
        changes: &[Change {
            find: "members |= u32::from(volume.members);",
            replacement: "members |= 0;",
        }],
    },
    Defect {
        name: "shared-layer-discarded",
        wrong: "A layer that nothing names is discarded though a clone reads through it.",
        file: "reclaim",
        changes: &[Change {
            find: "let mode = if children == 0 {",
            replacement: "let mode = if children <= 1 {",
        }],
    },
    Defect {
        name: "zeroes-lost-in-merge",
        wrong: "A merge moves blocks up that the child has zeroed.",
        file: "reclaim",
        changes: &[Change {
            find: "lower.valid - upper.valid - upper.opaque",
            replacement: "lower.valid - upper.valid",
        }],
    },
    Defect {
        name: "opaque-lost-in-merge",
        wrong: "A merge forgets that the merged layer hides its own parent.",
        file: "reclaim",
        changes: &[Change { find: "upper.opaque | lower.opaque", replacement: "upper.opaque" }],
    },
    Defect {
        name: "merge-logged-before-copies-are-flushed",
        wrong: "A merge logs the new fragments before the copied blocks are flushed.",
        file: "reclaim",
        changes: &[Change {
            find: "self.flush(key, members, false);",
            replacement: "let _ = members;",
        }],
    },
    Defect {
        name: "merge-without-barrier",
        wrong: "A merge does not hold back writes to the clusters it moves.",
        file: "reclaim",
        changes: &[Change {
            find: "let writer = self.state.tree.writer(child);",
            replacement: "let writer = self.state.tree.writer(child).filter(|_| false);",
        }],
    },
    Defect {
        name: "hidden-by-unsettled-blocks",
        wrong: "A cluster is pruned because unsettled blocks hide it.",
        file: "reclaim",
        changes: &[Change {
            find: "fragment.valid - unsettled.map_or(BlockSet::EMPTY, |(blocks, _)| blocks)",
            replacement: "fragment.valid | unsettled.map_or(BlockSet::EMPTY, |(blocks, _)| blocks)",
        }],
    },
    Defect {
        name: "opaque-lost-in-map",
        wrong: "A Map forgets that its blocks were zeroed.",
        file: "state",
        changes: &[Change {
            find: "after.valid.insert_range(first, count);",
            replacement: r"after.valid.insert_range(first, count);
        after.opaque.remove_range(first, count);",
        }],
    },
    Defect {
        name: "view-not-outdated",
        wrong: "What a read through many layers remembers stays when a merge moves the blocks.",
        file: "views",
        changes: &[Change {
            find: "self.versions[at.0 as usize % VERSIONS] += 1;",
            replacement: "let _ = at;",
        }],
    },
    Defect {
        name: "merge-spreads-unrecorded",
        wrong: "A merge brings clusters from members that the volume's flushes do not cover.",
        file: "reclaim",
        changes: &[Change { find: "self.spread(key, &upper);", replacement: "" }],
    },
    Defect {
        name: "merge-of-unsettled-blocks",
        wrong: "A merge makes blocks count without a proof that were not flushed.",
        file: "reclaim",
        changes: &[Change {
            find: "if lower.iter().any(|&(at, _)| unsettled(layer, at) || unsettled(child, at)) {",
            replacement: "if lower.is_empty() && unsettled(layer, cursor) {",
        }],
    },
    Defect {
        name: "trimmed-blocks-forgotten",
        wrong: "A block that is trimmed while unsettled is written again without a proof first.",
        file: "io/unmap",
        changes: &[Change {
            find: "if freed.is_some() {\n            self.settlement",
            replacement: "if true {\n            self.settlement",
        }],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sandbox::repository;

    #[test]
    fn every_defect_fits_the_source() {
        let mut misfits = Vec::new();
        for defect in DEFECTS {
            let path = defect.path();
            let source = std::fs::read_to_string(repository().join(&path)).expect("it is readable");
            match defect.planted(&source) {
                Ok(planted) => assert_ne!(planted, source, "{} changes nothing", defect.name),
                Err(misfit) => misfits.push(misfit),
            }
        }
        assert!(
            misfits.is_empty(),
            "not once, as it should:
{}",
            misfits.join(
                "
"
            )
        );
    }

    #[test]
    fn only_what_stands_once_is_changed() {
        let changes = &[Change { find: "b", replacement: "x" }];
        let defect = Defect { name: "n", wrong: "w", file: "f", changes };
        assert_eq!(defect.planted("a b c"), Ok("a x c".to_owned()));
        assert!(defect.planted("a b b").is_err());
        assert!(defect.planted("a c").is_err());
    }

    #[test]
    fn every_defect_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = DEFECTS.iter().map(|defect| defect.name).collect();
        assert_eq!(names.len(), DEFECTS.len());
    }
}
