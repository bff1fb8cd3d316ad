//! Checking a pool that nobody uses: everything is read, nothing is written, and what is wrong is said
//! with its place.
//!
//! ```text
//!   label copies -> one pool? -> slots and chunks of each copy -> entries of each copy
//!                -> replay -> clusters, links, accounting
//! ```
//!
//! - What one copy lacks and another one has is a warning: opening goes on without it, or mends it.
//! - What opening would refuse is damage. Checking goes on behind it as far as that makes sense.
//! - Whatever stands on the members ends in findings, in bounded time and memory.
//!
//! Source: `docs/formats/lvs.md` sections 2 to 8.

use core::fmt;

use uuid::Uuid;

use crate::{
    acceptance,
    audit::audit,
    chunks::{candidates, newest_slot, read_chunk},
    damage::Damage,
    format::{
        checkpoint::{SLOT_HEADER, SlotHeader, decode_slot},
        label::{LABEL_SIZE, Label, LabelMember, MemberState, label_offsets},
        tombstone::Tombstone,
    },
    geometry::BLOCK,
    log::Ring,
    medium::{Medium, MediumError},
    open::{Found, Intent, OpenError, OpenOptions, find_pool, fits_slots, read_pool},
    replay::{Places, Replayed, replay_telling},
    scan::read_log_telling,
};

/// The most findings in a report; of more only their number is told.
pub const CHECK_FINDINGS_MAX: usize = 1000;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Nothing is wrong; somebody may want to know.
    Note,
    /// A copy of something is bad, or a member is; the pool opens, degraded if need be.
    Warning,
    /// The pool is refused, or data is gone.
    Damage,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Damage => "damage",
        })
    }
}

/// Something that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// On which slot, where it is one.
    pub slot: Option<usize>,
    /// At which byte of it, where it is one place.
    pub offset: Option<u64>,
    /// What.
    pub detail: String,
}

/// What checking a pool found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// What was found, in the order in which opening would meet it.
    pub findings: Vec<Finding>,
    /// How many more there are, beyond [`CHECK_FINDINGS_MAX`].
    pub more: u64,
    /// What is in the pool, as far as it could be read to the end.
    pub checked: Option<Checked>,
    worst: Option<Severity>,
}

impl Report {
    /// The worst that was found.
    pub fn severity(&self) -> Option<Severity> {
        self.worst
    }

    fn say(&mut self, severity: Severity, place: (Option<usize>, Option<u64>), detail: String) {
        let (slot, offset) = place;
        let finding = Finding { severity, slot, offset, detail };
        // The worst is never among those that are only counted.
        let worse = self.worst < Some(severity);
        self.worst = self.worst.max(Some(severity));
        if self.findings.len() >= CHECK_FINDINGS_MAX {
            self.more += 1;
            if !worse {
                return;
            }
            self.findings.pop();
        }
        self.findings.push(finding);
    }

    fn at(&mut self, severity: Severity, slot: usize, offset: u64, detail: String) {
        self.say(severity, (Some(slot), Some(offset)), detail);
    }

    fn damage(&mut self, detail: &impl fmt::Display) {
        self.say(Severity::Damage, (None, None), detail.to_string());
    }
}

/// What is in a pool that was checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checked {
    /// The pool's name.
    pub name: String,
    /// Its UUID.
    pub pool: Uuid,
    /// Log entries since the last checkpoint.
    pub entries: u64,
    /// Blocks that a power cut took back: opening will not show them.
    pub taken_back: u64,
    /// Volumes, deleted ones that are kept for their snapshots among them.
    pub volumes: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Clusters in use.
    pub allocated_clusters: u64,
}

impl Checked {
    fn of(name: String, pool: Uuid, replayed: &Replayed) -> Self {
        Self {
            name,
            pool,
            entries: replayed.entries,
            taken_back: replayed.taken_back,
            volumes: replayed.state.volumes.len(),
            snapshots: replayed.state.snapshots.len(),
            allocated_clusters: replayed.alloc.taken(),
        }
    }
}

/// Whether the pool on the slots of `medium` would open, to the first reason why not. Changes nothing.
///
/// # Errors
///
/// What [`crate::open`] would refuse, but for features with which a pool can only be read.
pub fn check(medium: &mut dyn Medium, options: OpenOptions) -> Result<Checked, OpenError> {
    let read = read_pool(&mut Unwritten(medium), options, Intent::Read)?;
    let (name, pool) = (read.name.clone(), read.pool());
    Ok(Checked::of(name, pool, &read.replayed))
}

/// Looks at everything that the pool on the slots of `medium` consists of, each copy by itself, and
/// says all that is wrong. Changes nothing. Takes the time to read all metadata of all copies.
pub fn verify(medium: &mut dyn Medium, options: OpenOptions) -> Report {
    let medium = &mut Unwritten(medium);
    let mut report = Report::default();
    verify_labels(medium, &mut report);
    let found = match find_pool(medium, options, Intent::Read) {
        Ok(found) => found,
        Err(error) => {
            report.damage(&error);
            return report;
        }
    };
    verify_members(&found, &mut report);
    let places = found.places();
    let header = newest_slot(medium, &places).ok();
    for slot in 0..2 {
        let newest = header.as_ref().filter(|(number, _)| *number == slot);
        verify_slot(medium, &places, slot, newest.map(|(_, header)| header), &mut report);
    }
    if let Some((slot, header)) = header
        && acceptance::check_slot(slot, &header, places.slots).is_ok()
    {
        verify_log(medium, &places, &header, &mut report);
    }
    verify_state(medium, &found, &places, &mut report);
    report
}

/// Each copy of each label.
fn verify_labels(medium: &mut dyn Medium, report: &mut Report) {
    for slot in 0..medium.slots() {
        let mut newest: Option<Label> = None;
        let mut copies = Vec::new();
        let read = |medium: &mut dyn Medium, offset| {
            let mut bytes = vec![0; LABEL_SIZE];
            medium.read(slot, offset, &mut bytes).map(|()| bytes)
        };
        let offsets = label_offsets(medium.size(slot));
        if let Ok(bytes) = read(medium, 0)
            && let Ok(Some(_)) = Tombstone::decode(&bytes)
        {
            // Finding the pool says so.
            continue;
        }
        let [first, second, mut last] = offsets;
        for number in 0..3 {
            let offset = match number {
                0 => first,
                1 => second,
                _ => last,
            };
            let label = read(medium, offset)
                .map_err(|error| error.reason)
                .and_then(|bytes| Label::decode(&bytes).map_err(|error| error.to_string()));
            if let Ok(label) = &label {
                if number < 2 {
                    last = label_offsets(label.member_size)[2];
                }
                if newest.as_ref().is_none_or(|newest| label.generation > newest.generation) {
                    newest = Some(label.clone());
                }
            }
            copies.push((number, offset, label));
        }
        // Without any, finding the pool says so.
        let Some(newest) = newest else { continue };
        for (number, offset, label) in copies {
            let detail = match label {
                Err(reason) => format!("label copy {number}: {reason}"),
                Ok(label) if label.generation < newest.generation => {
                    let (old, new) = (label.generation, newest.generation);
                    format!("label copy {number} is of generation {old}, the newest one of {new}")
                }
                Ok(_) => continue,
            };
            report.at(Severity::Warning, slot, offset, detail);
        }
    }
}

/// What the labels say of members.
fn verify_members(found: &Found, report: &mut Report) {
    for (index, LabelMember { state, uuid, .. }) in found.table.iter().enumerate() {
        let index = u16::try_from(index).expect("16 at most");
        let slot = found.members.get(&crate::geometry::MemberIndex(index)).copied();
        if slot.is_none() {
            let detail = format!("member {index} ({uuid}) is missing");
            report.say(Severity::Warning, (None, None), detail);
        }
        let detail = match state {
            MemberState::InSync | MemberState::Proposed => continue,
            MemberState::Stale { since } => {
                format!(
                    "its metadata copy missed a write in incarnation {since}, and does not count"
                )
            }
            MemberState::Joining => {
                "its metadata copy is being made, and does not count".to_owned()
            }
            MemberState::Lost { since } => format!(
                "a flush failed in incarnation {since}; what was not settled has to be proved"
            ),
        };
        report.say(Severity::Warning, (slot, None), format!("member {index}: {detail}"));
    }
    let newest = &found.layout;
    if let Some(bit) = newest.read_only() {
        let detail = format!(
            "the pool uses read-only-compatible feature {bit}, which this version does not know: it \
             is read, and not opened"
        );
        report.say(Severity::Note, (None, None), detail);
    }
}

/// The header and the chunks of a checkpoint slot on each copy. `newest`: the header from which the
/// pool opens, if it is this slot's.
fn verify_slot(
    medium: &mut dyn Medium,
    places: &Places<'_>,
    slot: usize,
    newest: Option<&SlotHeader>,
    report: &mut Report,
) {
    let name = ["A", "B"][slot];
    let ring = Ring::new(places.slots[slot]);
    let (offset, _) = ring.locate(0);
    let mut header: Option<SlotHeader> = newest.copied();
    let mut found = Vec::new();
    for &copy in &places.copies {
        let mut bytes = vec![0; SLOT_HEADER];
        let read = medium.read(copy, offset, &mut bytes).map_err(|error| error.reason);
        let decoded = read.and_then(|()| {
            decode_slot(places.seed, &bytes).map_err(|malformed| malformed.to_string())
        });
        if let Ok(own) = &decoded
            && newest.is_none()
            && header.as_ref().is_none_or(|header| own.generation > header.generation)
        {
            header = Some(*own);
        }
        found.push((copy, decoded));
    }
    for (copy, decoded) in found {
        match decoded {
            Err(reason) => {
                let detail = format!("the header of checkpoint slot {name}: {reason}");
                report.at(Severity::Warning, copy, offset, detail);
            }
            Ok(own) if header.as_ref().is_some_and(|header| own.generation < header.generation) => {
                let detail = format!(
                    "the header of checkpoint slot {name} is of generation {}, another copy's is newer",
                    own.generation
                );
                report.at(Severity::Warning, copy, offset, detail);
            }
            Ok(_) => {}
        }
    }
    let Some(header) = header else { return };
    if let Err(damage) = acceptance::check_slot(slot, &header, places.slots) {
        let severity = if newest.is_some() { Severity::Damage } else { Severity::Warning };
        return report.say(severity, (None, Some(offset)), damage.to_string());
    }
    verify_chunks(medium, places, &ring, &header, report);
}

/// The chunks of a checkpoint on each copy. Where none has a chunk, and the pool opens from it,
/// reading the state says so.
fn verify_chunks(
    medium: &mut dyn Medium,
    places: &Places<'_>,
    ring: &Ring,
    header: &SlotHeader,
    report: &mut Report,
) {
    let generation = header.generation;
    let mut position = SLOT_HEADER as u64;
    for index in 0..header.chunks {
        if position >= ring.length() {
            return;
        }
        let mut next = None;
        let mut lacking = Vec::new();
        for &copy in &places.copies {
            let mut reason = String::new();
            let mut own = None;
            for place in candidates(ring, position) {
                match read_chunk(medium, places.seed, copy, ring, place) {
                    Ok(chunk)
                        if (chunk.header.generation, chunk.header.index) == (generation, index) =>
                    {
                        own = Some(place + u64::from(chunk.header.blocks) * BLOCK);
                        break;
                    }
                    Ok(_) => "another chunk is there".clone_into(&mut reason),
                    Err(malformed) if reason.is_empty() => reason = malformed.to_string(),
                    Err(_) => {}
                }
            }
            match own {
                Some(end) => next = Some(end),
                None => lacking.push((copy, reason)),
            }
        }
        let (offset, _) = ring.locate(position);
        for (copy, reason) in lacking {
            let detail = format!("checkpoint {generation}, chunk {index}: {reason}");
            report.at(Severity::Warning, copy, offset, detail);
        }
        match next {
            Some(next) => position = next,
            None => return,
        }
    }
}

/// The entries of the log on each copy.
fn verify_log(
    medium: &mut dyn Medium,
    places: &Places<'_>,
    header: &SlotHeader,
    report: &mut Report,
) {
    let mut lacking = |lsn: crate::geometry::Lsn, offset, copy| {
        let detail = format!("log entry {} is missing or bad here; another copy has it", lsn.0);
        report.at(Severity::Warning, copy, offset, detail);
    };
    // What is wrong with all copies, reading the state says.
    let _ = read_log_telling(medium, places, header, &mut lacking);
}

/// The state that comes of checkpoint and log.
fn verify_state(medium: &mut dyn Medium, found: &Found, places: &Places<'_>, report: &mut Report) {
    let mut damaged = false;
    let mut tell = |damage: Damage| {
        damaged = true;
        say_damage(report, places, &damage);
        Ok(())
    };
    let replayed = match replay_telling(medium, places, &mut tell) {
        Ok(replayed) => replayed,
        Err(damage) => return say_damage(report, places, &damage),
    };
    for wrong in audit(&replayed.state, &replayed.alloc) {
        report.say(Severity::Damage, (None, None), wrong);
        damaged = true;
    }
    if !damaged && !fits_slots(places, &replayed) {
        report.damage(&OpenError::SlotFull(found.name.clone()));
    }
    let lost = replayed.state.lost_blocks();
    if lost > 0 {
        let detail =
            format!("{lost} blocks were given up and read as errors until they are written");
        report.say(Severity::Warning, (None, None), detail);
    }
    let waiting: usize = replayed.to_prove.values().map(|(_, proofs)| proofs.len()).sum();
    if waiting > 0 {
        let detail = format!("{waiting} proofs wait for members that are not there");
        report.say(Severity::Warning, (None, None), detail);
    }
    if replayed.taken_back > 0 {
        let blocks = replayed.taken_back;
        let detail =
            format!("{blocks} blocks were never flushed and are not there: they are taken back");
        report.say(Severity::Note, (None, None), detail);
    }
    let nameless = replayed.state.tree.nameless().count();
    if nameless > 0 {
        let detail =
            format!("{nameless} layers of what was deleted are kept or wait to be reclaimed");
        report.say(Severity::Note, (None, None), detail);
    }
    report.checked = Some(Checked::of(found.name.clone(), found.layout.pool, &replayed));
}

fn say_damage(report: &mut Report, places: &Places<'_>, damage: &Damage) {
    let place = match damage {
        Damage::Entry { offset, .. } => (places.copies.first().copied(), Some(*offset)),
        Damage::Chunk { generation, position, .. } => {
            let extents = places.slots[crate::checkpoint::slot_of(*generation)];
            let (offset, _) = Ring::new(extents).locate(*position);
            (places.copies.first().copied(), Some(offset))
        }
        Damage::Segment { member, offset, .. } => {
            (places.members.get(member).copied(), Some(*offset))
        }
        Damage::Medium(MediumError { slot, offset, .. }) => (Some(*slot), Some(*offset)),
        _ => (None, None),
    };
    report.say(Severity::Damage, place, damage.to_string());
}

/// Members that are only read, whatever the code below asks for.
struct Unwritten<'a>(&'a mut dyn Medium);

impl Medium for Unwritten<'_> {
    fn slots(&self) -> usize {
        self.0.slots()
    }

    fn size(&self, slot: usize) -> u64 {
        self.0.size(slot)
    }

    fn read(&mut self, slot: usize, offset: u64, buffer: &mut [u8]) -> Result<(), MediumError> {
        self.0.read(slot, offset, buffer)
    }

    fn write(&mut self, slot: usize, offset: u64, _: &[u8]) -> Result<(), MediumError> {
        let reason = "the pool is only being checked".to_owned();
        Err(MediumError { slot, operation: "writing", offset, reason })
    }

    fn flush(&mut self, slot: usize) -> Result<(), MediumError> {
        let reason = "the pool is only being checked".to_owned();
        Err(MediumError { slot, operation: "flushing", offset: 0, reason })
    }
}
