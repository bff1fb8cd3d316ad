//! What every sector of every volume and snapshot may hold: the oracle.
//!
//! A sector's content is a *tag*, zero for zeros. The model keeps, for each sector, the values
//! that it was given since the last one that must have survived a power cut, in the order in
//! which they were submitted. From that follows what may be read:
//!
//! | after | a sector holds |
//! |---|---|
//! | nothing (it lives) | the last value submitted before the read |
//! | the daemon died | the last acknowledged value or a later submitted one |
//! | power was lost | any value since the last one that was flushed |

use std::collections::{BTreeMap, BTreeSet};

use fathom_test_support::random::Random;

/// Bytes in a sector, the unit in which a disk tears writes.
pub const SECTOR: usize = 512;

/// How a crash came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The daemon died; its disks did not.
    Daemon,
    /// Power was lost.
    Power,
}

/// The content of a sector with a tag.
pub fn content(tag: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if tag != 0 {
        for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
            let index = u32::try_from(index).expect("64 words");
            word.copy_from_slice(&(tag.rotate_left(index) ^ u64::from(index)).to_le_bytes());
        }
    }
    bytes
}

/// Each byte of a sector that could not be read.
pub const UNREADABLE: u8 = 0xDD;

/// The tag of a sector's content; nothing when it is no content of ours.
pub fn tag(bytes: &[u8]) -> Option<u64> {
    let first = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
    (bytes == content(first)).then_some(first)
}

/// A value that a sector was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Value {
    tag: u64,
    /// The number of the operation that gave it.
    operation: u64,
    /// When it was acknowledged.
    acknowledged: Option<u64>,
}

/// What a read returns, and the operation that gave it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expected {
    /// The tag.
    pub tag: u64,
    /// The operation.
    pub operation: u64,
}

/// Whether a device exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existence {
    /// Its creation was acknowledged.
    Sure,
    /// Its creation is under way.
    Coming,
    /// Its deletion is under way.
    Going,
}

/// A volume or snapshot.
#[derive(Clone, Debug)]
pub struct Device {
    /// Whether it exists.
    pub existence: Existence,
    /// The volume of which it is a snapshot, by UUID.
    pub snapshot_of: Option<u128>,
    /// Bytes in a logical block.
    pub block_size: usize,
    /// Every acknowledged write survives a power cut.
    pub write_through: bool,
    sectors: Vec<Vec<Value>>,
    /// A size in sectors that it may have instead.
    growing: Option<usize>,
}

impl Device {
    /// A device of zeros.
    pub fn new(sectors: usize, block_size: usize, write_through: bool) -> Self {
        let zero = Value { tag: 0, operation: 0, acknowledged: Some(0) };
        Self {
            existence: Existence::Coming,
            snapshot_of: None,
            block_size,
            write_through,
            sectors: vec![vec![zero]; sectors],
            growing: None,
        }
    }

    /// Its size in sectors.
    pub fn len(&self) -> usize {
        self.sectors.len()
    }

    /// A random range of whole logical blocks, in sectors: its first one and how many.
    pub fn some_range(&self, random: &mut Random) -> (usize, usize) {
        let (sectors, block) = (self.len() as u64, (self.block_size / SECTOR) as u64);
        let blocks = sectors / block;
        // Most of the time a small part at the start, so that things meet.
        let span = if random.chance(3, 4) { (blocks / 4).max(1) } else { blocks };
        let first = random.below(span);
        let most = if random.chance(1, 8) { blocks } else { 64 / block.max(4) };
        let count = 1 + random.below(most.min(blocks - first));
        let to_usize = |sectors: u64| usize::try_from(sectors).expect("small");
        (to_usize(first * block), to_usize(count * block))
    }

    /// Whether it has no sectors; none has.
    pub fn is_empty(&self) -> bool {
        self.sectors.is_empty()
    }

    /// The value that a read submitted now returns.
    pub fn newest(&self, sector: usize) -> u64 {
        self.newest_of(sector).tag
    }

    /// The same with the operation that gave it.
    pub fn newest_of(&self, sector: usize) -> Expected {
        let value = self.sectors[sector].last().expect("never empty");
        Expected { tag: value.tag, operation: value.operation }
    }

    /// What was there before `operation` came, if it came to this sector.
    pub fn before(&self, sector: usize, operation: u64) -> Option<Expected> {
        let values = self.sectors.get(sector)?;
        let at = values.iter().position(|value| value.operation == operation)?;
        let value = values[at.checked_sub(1)?];
        Some(Expected { tag: value.tag, operation: value.operation })
    }

    /// What `operation` gave to a sector.
    ///
    /// # Panics
    ///
    /// When it gave it nothing, or that has been forgotten.
    pub fn given_by(&self, sector: usize, operation: u64) -> Expected {
        let value = self.sectors[sector].iter().find(|value| value.operation == operation);
        let value = value.expect("the operation covers the sector");
        Expected { tag: value.tag, operation }
    }

    /// A copy of what the device will hold when everything submitted by now is done, but for the
    /// operations `later`, which limits hold back: they come after whatever is done now.
    pub fn branch(&self, snapshot_of: Option<u128>, later: &BTreeSet<u64>) -> Self {
        let mut branch =
            Self { existence: Existence::Coming, snapshot_of, growing: None, ..self.clone() };
        for values in &mut branch.sectors {
            values.retain(|value| !later.contains(&value.operation));
        }
        branch
    }

    fn allowed(&self, sector: usize, crash: Crash) -> &[Value] {
        let values = &self.sectors[sector];
        match crash {
            Crash::Power => values,
            Crash::Daemon => {
                let last = values.iter().rposition(|value| value.acknowledged.is_some());
                &values[last.unwrap_or(0)..]
            }
        }
    }
}

/// All devices of a pool, by UUID.
#[derive(Clone, Default, Debug)]
pub struct Model {
    /// The devices.
    pub devices: BTreeMap<u128, Device>,
    clock: u64,
}

impl Model {
    /// A moment later than all before.
    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Operation `operation` gives sectors from `first` on these tags.
    pub fn submit(&mut self, device: u128, operation: u64, first: usize, tags: &[u64]) {
        let device = self.devices.get_mut(&device).expect("a known device");
        for (sector, &tag) in (first..).zip(tags) {
            device.sectors[sector].push(Value { tag, operation, acknowledged: None });
        }
    }

    /// The operation was acknowledged; `durable`: it survives a power cut.
    pub fn acknowledge(
        &mut self,
        device: u128,
        operation: u64,
        first: usize,
        count: usize,
        durable: bool,
    ) {
        let now = self.tick();
        let Some(device) = self.devices.get_mut(&device) else { return };
        let durable = durable || device.write_through;
        for values in &mut device.sectors[first..first + count] {
            let Some(at) = values.iter().position(|value| value.operation == operation) else {
                continue;
            };
            values[at].acknowledged = Some(now);
            if durable {
                values.drain(..at);
            }
        }
    }

    /// The operation was refused before it changed anything.
    pub fn refuse(&mut self, operation: u64, first: usize, count: usize) {
        for device in self.devices.values_mut() {
            for values in device.sectors.iter_mut().skip(first).take(count) {
                values.retain(|value| value.operation != operation);
            }
        }
    }

    /// A flush that was submitted at `submitted` was acknowledged.
    pub fn flushed(&mut self, device: u128, submitted: u64) {
        let Some(device) = self.devices.get_mut(&device) else { return };
        for values in &mut device.sectors {
            let stable = values
                .iter()
                .rposition(|value| value.acknowledged.is_some_and(|at| at < submitted));
            if let Some(stable) = stable {
                values.drain(..stable);
            }
        }
    }

    /// Everything submitted to the device by now has been done and survives a power cut: it is
    /// a snapshot or clone whose creation was acknowledged.
    pub fn fixed(&mut self, device: u128) {
        let now = self.tick();
        let device = self.devices.get_mut(&device).expect("a known device");
        device.existence = Existence::Sure;
        for values in &mut device.sectors {
            let last = values.len() - 1;
            values.drain(..last);
            values[0].acknowledged = Some(now);
        }
    }

    /// A rollback to a snapshot begins, as operation `operation`. Operations `later` are held back
    /// and come after it.
    pub fn roll_back(
        &mut self,
        volume: u128,
        snapshot: u128,
        operation: u64,
        later: &BTreeSet<u64>,
    ) {
        let tags: Vec<u64> = {
            let snapshot = &self.devices[&snapshot];
            (0..snapshot.len()).map(|sector| snapshot.newest(sector)).collect()
        };
        let sectors = self.devices[&volume].len();
        let tags: Vec<u64> =
            (0..sectors).map(|sector| tags.get(sector).copied().unwrap_or(0)).collect();
        self.submit(volume, operation, 0, &tags);
        for values in &mut self.devices.get_mut(&volume).expect("a known device").sectors {
            values.sort_by_key(|value| later.contains(&value.operation));
        }
    }

    /// A resize to so many sectors begins.
    pub fn grow(&mut self, volume: u128, sectors: usize) {
        self.devices.get_mut(&volume).expect("a known device").growing = Some(sectors);
    }

    /// The resize was refused.
    pub fn not_grown(&mut self, volume: u128) {
        self.devices.get_mut(&volume).expect("a known device").growing = None;
    }

    /// The resize was acknowledged.
    pub fn grown(&mut self, volume: u128) {
        let device = self.devices.get_mut(&volume).expect("a known device");
        if let Some(sectors) = device.growing.take() {
            let zero = Value { tag: 0, operation: 0, acknowledged: Some(0) };
            device.sectors.resize(sectors, vec![zero]);
        }
    }

    /// Checks what is there after a crash. `observed` gives each device's content.
    ///
    /// # Errors
    ///
    /// The first sector or device that cannot be explained.
    pub fn check(&self, observed: &BTreeMap<u128, Vec<u8>>, crash: Crash) -> Result<(), String> {
        self.check_all(observed, crash, |_| false)
    }

    /// As [`Model::check`], when some sectors could not be read: they hold [`UNREADABLE`].
    ///
    /// # Errors
    ///
    /// As [`Model::check`].
    pub fn check_readable(
        &self,
        observed: &BTreeMap<u128, Vec<u8>>,
        crash: Crash,
    ) -> Result<(), String> {
        self.check_all(observed, crash, |bytes| bytes.iter().all(|&byte| byte == UNREADABLE))
    }

    fn check_all(
        &self,
        observed: &BTreeMap<u128, Vec<u8>>,
        crash: Crash,
        skip: impl Fn(&[u8]) -> bool,
    ) -> Result<(), String> {
        for (uuid, device) in &self.devices {
            let Some(bytes) = observed.get(uuid) else {
                if device.existence == Existence::Sure {
                    return Err(format!("device {uuid:x} is gone"));
                }
                continue;
            };
            let sectors = bytes.len() / SECTOR;
            if sectors != device.len() && Some(sectors) != device.growing {
                return Err(format!("device {uuid:x} has {sectors} sectors, not {}", device.len()));
            }
            for (sector, bytes) in bytes.chunks(SECTOR).enumerate().filter(|(_, b)| !skip(b)) {
                let found = tag(bytes);
                let right = match found {
                    Some(found) if sector >= device.len() => found == 0,
                    Some(found) => {
                        device.allowed(sector, crash).iter().any(|value| value.tag == found)
                    }
                    None => false,
                };
                if !right {
                    let found = found.map_or_else(
                        || format!("foreign bytes {:02x?}", &bytes[..16]),
                        |tag| format!("tag {tag:x}"),
                    );
                    let allowed = device.sectors.get(sector);
                    return Err(format!(
                        "device {uuid:x} (snapshot of {:x?}), sector {sector} (block {}) after \
                         {crash:?}: {found}, allowed {:x?} of {allowed:x?}",
                        device.snapshot_of,
                        sector / 8,
                        device
                            .allowed(sector.min(device.len() - 1), crash)
                            .iter()
                            .map(|value| value.tag)
                            .collect::<Vec<_>>(),
                    ));
                }
            }
        }
        match observed.keys().find(|uuid| !self.devices.contains_key(uuid)) {
            Some(unknown) => Err(format!("device {unknown:x} was never created")),
            None => Ok(()),
        }
    }

    /// Goes on from what was observed after a crash: all of it is stable now.
    pub fn adopt(&mut self, observed: &BTreeMap<u128, Vec<u8>>) {
        self.devices.retain(|uuid, _| observed.contains_key(uuid));
        for (uuid, device) in &mut self.devices {
            device.existence = Existence::Sure;
            device.growing = None;
            device.sectors = observed[uuid]
                .chunks(SECTOR)
                .map(|bytes| {
                    let tag = tag(bytes).expect("checked before");
                    vec![Value { tag, operation: 0, acknowledged: Some(0) }]
                })
                .collect();
        }
    }

    /// A device that exists, of those that fit.
    pub fn pick(&self, random: &mut Random, fits: impl Fn(&Device) -> bool) -> Option<u128> {
        let fitting: Vec<u128> = self
            .devices
            .iter()
            .filter(|(_, device)| device.existence == Existence::Sure && fits(device))
            .map(|(&uuid, _)| uuid)
            .collect();
        (!fitting.is_empty()).then(|| *random.pick(&fitting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        let mut model = Model::default();
        model.devices.insert(1, Device::new(1, 512, false));
        model.fixed(1);
        model
    }

    fn check(model: &Model, tag: u64, crash: Crash) -> bool {
        model.check(&BTreeMap::from([(1, content(tag).to_vec())]), crash).is_ok()
    }

    #[test]
    fn an_unflushed_write_may_be_lost_with_power_but_not_with_the_daemon() {
        let mut model = model();
        model.submit(1, 7, 0, &[70]);
        assert!(check(&model, 0, Crash::Daemon) && check(&model, 70, Crash::Daemon));
        model.acknowledge(1, 7, 0, 1, false);
        assert!(!check(&model, 0, Crash::Daemon) && check(&model, 70, Crash::Daemon));
        assert!(check(&model, 0, Crash::Power) && check(&model, 70, Crash::Power));
        let submitted = model.tick();
        model.flushed(1, submitted);
        assert!(!check(&model, 0, Crash::Power) && check(&model, 70, Crash::Power));
    }

    #[test]
    fn a_flush_covers_what_was_acknowledged_before_it() {
        let mut model = model();
        let submitted = model.tick();
        model.submit(1, 7, 0, &[70]);
        model.acknowledge(1, 7, 0, 1, false);
        model.flushed(1, submitted);
        assert!(check(&model, 0, Crash::Power));
    }

    #[test]
    fn foreign_bytes_are_never_allowed() {
        let mut bytes = content(70);
        bytes[300] ^= 1;
        assert_eq!(tag(&bytes), None);
        let observed = BTreeMap::from([(1, bytes.to_vec())]);
        assert!(model().check(&observed, Crash::Power).is_err());
    }

    #[test]
    fn a_device_that_is_sure_may_not_be_missing_and_an_unknown_one_not_appear() {
        assert!(model().check(&BTreeMap::new(), Crash::Power).is_err());
        let observed = BTreeMap::from([(1, content(0).to_vec()), (2, content(0).to_vec())]);
        assert!(model().check(&observed, Crash::Power).is_err());
    }
}
