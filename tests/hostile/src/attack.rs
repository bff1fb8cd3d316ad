//! Attacks drawn from a seed: a pool with a history, of which some fields, operations or lengths
//! are changed, with every checksum made right again.

use fathom_lvs::{
    OpenError, OpenOptions, Severity,
    format::{
        label::{Extent, Label, MemberRole, MemberState},
        op::{Decoder, Op},
    },
    geometry::{ClusterNo, LayerId, LogicalCluster, ObjectId},
};
use fathom_test_sim::{
    history,
    rig::{Disks, Rig},
};
use fathom_test_support::random::Random;

use crate::{
    image::{Image, split},
    life,
};

/// Steps of the history that an attack begins with.
const HISTORY_STEPS: u32 = 150;
/// Reads that opening a pool of this size may take: everything is bounded by the log, the slots
/// and the blocks to be proved.
const READS_MAX: u64 = 50_000;
/// The same for looking at each copy of everything, and then at everything once more.
const VERIFY_READS_MAX: u64 = 4 * READS_MAX;

/// What a number of attacks came to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Summary {
    /// Pools that were opened, and lived.
    pub opened: u32,
    /// Pools that were refused.
    pub refused: u32,
}

/// Runs the history of `seed` and `trials` attacks on what it leaves.
///
/// # Errors
///
/// What went wrong first.
pub fn run(seed: u64, trials: u32) -> Result<Summary, String> {
    let mut disks = history::disks_after(seed, HISTORY_STEPS)?;
    let image = Image::read(&mut disks);
    let mut random = Random::new(seed).fork("attack");
    let mut summary = Summary::default();
    for trial in 0..trials {
        let (mut image, mut disks) = (image.clone(), disks.clone());
        let mut story = Vec::new();
        for _ in 0..random.below(4) {
            story.push(attack(&mut image, &mut random));
        }
        image.write(&mut disks);
        let mut random = random.fork("trial");
        match attempt(disks, &mut random) {
            Ok(None) => summary.opened += 1,
            Ok(Some(refusal)) if story.is_empty() => {
                return Err(format!("trial {trial}: an unchanged pool was refused: {refusal}"));
            }
            Ok(Some(_)) => summary.refused += 1,
            Err(error) => return Err(format!("trial {trial}, {story:?}: {error}")),
        }
    }
    Ok(summary)
}

/// Checks and opens what is on `disks`; what opens is used and opened again. Returns why it was
/// refused.
///
/// # Errors
///
/// What must not be, whatever is on the disks.
pub fn attempt(mut disks: Disks, random: &mut Random) -> Result<Option<String>, String> {
    let counts = |disks: &Disks| {
        let counters = disks.0.iter().map(|disk| disk.counters());
        counters.fold((0, 0), |(reads, writes), c| (reads + c.reads, writes + c.writes))
    };
    let (reads, writes) = counts(&disks);
    let checked = fathom_lvs::check(&mut disks, OpenOptions::default());
    let (reads_after, writes_after) = counts(&disks);
    if writes_after != writes {
        return Err("checking wrote to a member".to_owned());
    }
    if reads_after - reads > READS_MAX {
        return Err(format!("checking took {} reads", reads_after - reads));
    }
    let report = fathom_lvs::verify(&mut disks, OpenOptions::default());
    let (reads_verified, writes_verified) = counts(&disks);
    if writes_verified != writes {
        return Err("checking everything wrote to a member".to_owned());
    }
    if reads_verified - reads_after > VERIFY_READS_MAX {
        return Err(format!("checking everything took {} reads", reads_verified - reads_after));
    }
    if (report.severity() == Some(Severity::Damage)) != checked.is_err() {
        return Err(format!("checking said {checked:?}, and checking everything {report:?}"));
    }
    match Rig::open(disks, OpenOptions::default()) {
        Err(failed) => {
            let (error, disks) = *failed;
            if counts(&disks).1 != writes {
                return Err(format!("a pool was refused after it had been written to: {error}"));
            }
            match checked {
                // It is read, and not opened.
                _ if only_to_be_read(&error) => Ok(Some(error.to_string())),
                Err(found) if found == error => Ok(Some(error.to_string())),
                found => Err(format!("checking said {found:?}, opening said {error}")),
            }
        }
        Ok(rig) => {
            checked.map_err(|error| format!("checking refuses what opens: {error}"))?;
            life::live(rig, random)?;
            Ok(None)
        }
    }
}

fn only_to_be_read(error: &OpenError) -> bool {
    matches!(error, OpenError::Feature { kind, .. } if kind.starts_with("read-only"))
}

/// Changes something; says what.
fn attack(image: &mut Image, random: &mut Random) -> String {
    match random.below(20) {
        0..2 => patch_label(image, random),
        2..4 => relabel(image, random),
        4..6 => patch_slot(image, random),
        6 => patch_headers(image, random),
        7..10 => shuffle_operations(image, random),
        10..15 => patch_operation(image, random),
        15..17 => twin(image, random),
        17..19 => typed(image, random),
        _ => cut(image, random),
    }
}

/// A number that is likely to hurt, or one that is near to what is there.
fn nasty(random: &mut Random, now: u64, width: usize) -> u64 {
    let most = if width == 8 { u64::MAX } else { (1 << (8 * width)) - 1 };
    let value = match random.below(12) {
        0 => 0,
        1 => 1,
        2 => most,
        3 => most - 1,
        4 => most >> 1,
        5 => (most >> 1) + 1,
        6 => now.wrapping_add(1),
        7 => now.wrapping_sub(1),
        8 => 1 << random.below(8 * width as u64),
        9 => now ^ (1 << random.below(8 * width as u64)),
        10 => random.below(16),
        _ => random.next_u64(),
    };
    value & most
}

fn patched(random: &mut Random, bytes: &[u8], range: core::ops::Range<u64>) -> (usize, Vec<u8>) {
    let width = *random.pick(&[2usize, 4, 8]);
    let at = index(random, usize_of(((range.end - range.start) / width as u64).max(1))) * width
        + usize_of(range.start);
    let mut now = [0; 8];
    for (to, from) in now.iter_mut().zip(bytes.get(at..).unwrap_or(&[]).iter().take(width)) {
        *to = *from;
    }
    let value = nasty(random, u64::from_le_bytes(now), width);
    (at, value.to_le_bytes()[..width].to_vec())
}

fn patch_label(image: &mut Image, random: &mut Random) -> String {
    let victim = index(random, image.labels.len());
    let bytes = image.labels[victim].encode();
    // Half of the label is reserved; its fields get most of the attacks.
    let end = *random.pick(&[128, 576, 1344, 1728, 4096]);
    let patch = patched(random, &bytes, 24..end);
    let story = format!("label {victim}: {patch:?}");
    if random.chance(1, 2) {
        image.label_patches[victim].push(patch);
    } else {
        image.label_patches.iter_mut().for_each(|patches| patches.push(patch.clone()));
    }
    story
}

/// Changes that a label's own check lets pass, the same in all labels.
fn relabel(image: &mut Image, random: &mut Random) -> String {
    let kind = random.below(9);
    let number = random.next_u64();
    let count = nasty(random, 1, 8);
    let part = 4096 * (1 + number % 40);
    let change = |label: &mut Label| match kind {
        0 => label.generation = count,
        1 => label.incarnation = count,
        2 => split_extent(&mut label.log, part),
        3 => split_extent(&mut label.slot_a, part),
        4 => split_extent(&mut label.slot_b, part),
        5 => label.log.iter_mut().for_each(|extent| extent.length = part),
        6 => label.slot_a.iter_mut().for_each(|extent| extent.length = part),
        7 => core::mem::swap(&mut label.slot_a, &mut label.log),
        _ => {
            let at = usize_of(number) % label.members.len();
            label.members[at].state = match number % 4 {
                0 => MemberState::InSync,
                1 => MemberState::Joining,
                2 => MemberState::Proposed,
                _ => MemberState::Stale { since: count.max(1) },
            };
        }
    };
    for label in &mut image.labels {
        let mut changed = label.clone();
        change(&mut changed);
        if changed.log.is_empty()
            == (changed.members[usize::from(changed.index.0)].role == MemberRole::Data)
            && changed.check().is_ok()
        {
            *label = changed;
        }
    }
    format!("relabel {kind}, {count}, {part}")
}

fn split_extent(extents: &mut Vec<Extent>, first: u64) {
    if let [Extent { offset, length }] = extents[..]
        && length > first
    {
        let rest = Extent { offset: offset + first, length: length - first };
        *extents = vec![Extent { offset, length: first }, rest];
    }
}

fn patch_slot(image: &mut Image, random: &mut Random) -> String {
    let header = &mut image.slot;
    let kind = random.below(8);
    let count = nasty(random, header.generation, 8);
    let four = u32::try_from(nasty(random, 1, 4)).expect("cut to four bytes");
    match kind {
        0 => header.generation = count.max(1),
        1 => header.start.0 = count.max(1),
        2 => header.position = count / 4096 * 4096,
        3 => header.incarnation = count,
        4 => header.next_layer.0 = four.max(1),
        5 => header.next_object.0 = count.max(1),
        _ => {
            let patch = patched(random, &[], 16..if kind == 6 { 96 } else { 4096 });
            let story = format!("slot header: {patch:?}");
            image.slot_patches.push(patch);
            return story;
        }
    }
    format!("slot header: field {kind} is {count} or {four}")
}

fn patch_headers(image: &mut Image, random: &mut Random) -> String {
    let patch = patched(random, &[], 4..64);
    let story = format!("header of a chunk or an entry: {patch:?}");
    let at = index(random, image.chunks.len() + image.entries.len());
    match at.checked_sub(image.chunks.len()) {
        None => image.chunks[at].patches.push(patch),
        Some(at) => image.entries[at].patches.push(patch),
    }
    story
}

/// Drops, doubles, moves or exchanges operations.
fn shuffle_operations(image: &mut Image, random: &mut Random) -> String {
    let blocks = image.blocks();
    let all = image.operations();
    if all.is_empty() {
        return "nothing".to_owned();
    }
    let mut payloads = image.payloads();
    let at = index(random, payloads.len());
    let payload = &mut *payloads[at];
    let mut ops = split(payload, blocks);
    let kind = random.below(5);
    if ops.is_empty() || kind == 0 {
        let place = index(random, ops.len() + 1);
        ops.insert(place, random.pick(&all).clone());
    } else {
        let (one, other) = (index(random, ops.len()), index(random, ops.len()));
        match kind {
            1 => drop(ops.remove(one)),
            2 => ops.swap(one, other),
            3 => ops.insert(other, ops[one].clone()),
            _ => ops.truncate(one),
        }
    }
    *payload = ops.concat();
    format!("operations of payload {at}: change {kind}")
}

/// Changes a field of an operation.
fn patch_operation(image: &mut Image, random: &mut Random) -> String {
    let blocks = image.blocks();
    let mut payloads = image.payloads();
    let at = index(random, payloads.len());
    let payload = &mut *payloads[at];
    let mut ops = split(payload, blocks);
    if ops.is_empty() {
        return "nothing".to_owned();
    }
    let which = index(random, ops.len());
    let op = &mut ops[which];
    let end = op.len().min(*random.pick(&[24, 48, 4096])).max(10) as u64;
    let begin = if random.chance(1, 8) { 0 } else { 8 };
    let (offset, bytes) = patched(random, op, begin..end);
    crate::image::put(op, offset, &bytes);
    let kind = op[0];
    *payload = ops.concat();
    format!("operation {which} of payload {at}, type {kind}: {bytes:?} at {offset}")
}

/// Adds a volume or snapshot that is another one's twin but for its id, or for one more field.
fn twin(image: &mut Image, random: &mut Random) -> String {
    let blocks = image.blocks();
    let all = image.operations();
    let objects: Vec<&Vec<u8>> = all.iter().filter(|op| matches!(op[0], 6 | 8)).collect();
    if objects.is_empty() {
        return "nothing".to_owned();
    }
    let bytes = (*random.pick(&objects)).clone();
    let Some(Ok(mut op)) = Decoder::new(&bytes, blocks).next() else { unreachable!("decoded") };
    let id = ObjectId(nasty(random, 3, 8).max(1));
    let layer = LayerId(u32::try_from(nasty(random, 3, 4)).expect("four bytes").max(1));
    let (rename, recount, relayer) =
        (random.chance(1, 2), random.chance(1, 2), random.chance(1, 2));
    let twin = |its_id: &mut ObjectId, name: &mut String, uuid: &mut uuid::Uuid| {
        *its_id = id;
        if rename {
            *name = format!("twin{}", id.0);
        }
        if recount {
            *uuid = uuid::Uuid::from_u128(u128::from(id.0) << 64);
        }
    };
    match &mut op {
        Op::PutVolume(record) => {
            twin(&mut record.id, &mut record.name, &mut record.uuid);
            if relayer {
                record.tip = Some(layer);
            }
        }
        Op::PutSnapshot(record) => {
            twin(&mut record.id, &mut record.name, &mut record.uuid);
            if relayer {
                record.layer = layer;
            }
        }
        _ => unreachable!("only objects were chosen"),
    }
    let mut ops = vec![op];
    if random.chance(1, 2) {
        ops.insert(0, Op::PutLayer { layer, parent: None });
    }
    image.add_entry(&ops);
    format!("a twin with id {}, layer {}, {rename} {recount} {relayer}", id.0, layer.0)
}

/// Adds an entry with an operation that is allowed and hurts.
fn typed(image: &mut Image, random: &mut Random) -> String {
    let blocks = u64::from(image.blocks());
    let layer = LayerId(u32::try_from(random.below(12)).expect("small") + 1);
    let other = LayerId(u32::try_from(random.below(12)).expect("small") + 1);
    let cluster = u32::try_from(random.below(200)).expect("small");
    let first = nasty(random, 64, 4).min(u64::from(u32::MAX) - 1100);
    let (first, kind) = (u32::try_from(first).expect("four bytes"), random.below(6));
    let op = match kind {
        0 | 1 => Op::Unmap {
            layer,
            opaque: kind == 0,
            first_block: u64::from(first) * blocks,
            blocks: 1024 * blocks,
        },
        2 => Op::PutLayer { layer, parent: (layer != other).then_some(other) },
        3 => Op::DropLayer { layer },
        4 => Op::Map {
            layer,
            at: LogicalCluster(first),
            cluster: ClusterNo(cluster),
            first: 0,
            proofs: vec![random.next_u64(); usize_of(1 + random.below(blocks))],
        },
        _ => Op::DropVolume { volume: ObjectId(1 + random.below(8)) },
    };
    let times = if random.chance(1, 8) { 40 } else { 1 };
    (0..times).for_each(|_| image.add_entry(core::slice::from_ref(&op)));
    format!("{times} times {op:?}")
}

/// Cuts the log or the checkpoint short.
fn cut(image: &mut Image, random: &mut Random) -> String {
    let (chunks, entries) = (image.chunks.len(), image.entries.len());
    if random.chance(1, 2) {
        let left = 1 + index(random, chunks);
        image.chunks.truncate(left);
    } else {
        let left = index(random, entries + 1);
        image.entries.truncate(left);
    }
    format!(
        "{} of {chunks} chunks, {} of {entries} entries",
        image.chunks.len(),
        image.entries.len()
    )
}

fn index(random: &mut Random, length: usize) -> usize {
    usize_of(random.below(length as u64))
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).expect("64 bits")
}
