//! The volatile write cache: what reads see, what is stable, and what a power cut leaves.
//!
//! [`crate::disk`] admits an operation and hands it here; the bytes are in
//! [`crate::contents`].
//!
//! ```text
//!   stable contents  --- changes since, in order --->  visible contents
//!        ^                     (the log)                     |
//!        +------------------- flush -------------------------+
//! ```
//!
//! - `visible` is `stable` with every change of the log applied in order.
//! - After a power cut the contents are `stable` with *some* of the log applied, in order: a
//!   settled change always and whole, a volatile one as [`Cut`] decides. A settled change thus
//!   supersedes the earlier versions of its sectors and of no others.
//! - Sectors the log does not mention are the same in both.

use std::sync::Arc;

use crate::contents::Contents;
use crate::disk::{Cut, SECTOR_BYTES};
use crate::random::Random;
use crate::sectors::{Sectors, memory_length};

/// A discard is lost or kept in at most this many pieces, so that one of a whole disk does not
/// take a coin for each of its sectors.
const DISCARD_PIECES_MAX: u64 = 4096;

/// The medium and the write cache before it.
#[derive(Clone)]
pub(crate) struct Cache {
    stable: Contents,
    visible: Contents,
    log: Vec<Entry>,
}

/// Whether a change outlives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    Volatile,
    Settled,
}

/// What happens to a run of sectors. Data and masks are exactly as long as the run.
#[derive(Clone)]
pub(crate) enum Change {
    Write(Arc<[u8]>),
    Discard,
    /// Flips the bits set in the mask in whatever version is there.
    Damage(Arc<[u8]>),
}

#[derive(Clone)]
struct Entry {
    sectors: Sectors,
    change: Change,
    durability: Durability,
}

/// A coin with the same bias for a whole power cut.
struct Coin {
    heads_of_eight: u64,
}

impl Cache {
    /// An empty cache before a medium with `contents`.
    pub(crate) fn new(contents: Contents) -> Self {
        Self { stable: contents.clone(), visible: contents, log: Vec::new() }
    }

    /// Makes room for `capacity_bytes`; at once and for good.
    pub(crate) fn grow(&mut self, capacity_bytes: u64) {
        self.stable.grow(capacity_bytes);
        self.visible.grow(capacity_bytes);
    }

    /// Copies the newest version of `sectors` to `buffer`.
    pub(crate) fn read(&self, sectors: Sectors, buffer: &mut [u8]) {
        self.visible.read(sectors, buffer);
    }

    /// Makes `change` visible, and stable when it is settled.
    pub(crate) fn apply(&mut self, sectors: Sectors, change: Change, durability: Durability) {
        let entry = Entry { sectors, change, durability };
        entry.apply(&mut self.visible);
        let supersedes = || self.log.iter().any(|earlier| earlier.sectors.overlaps(sectors));
        if durability == Durability::Volatile || supersedes() {
            self.log.push(entry);
        } else {
            // Kept out of the log, as order does not matter here: a disk that is only ever
            // written with FUA would never empty it.
            entry.apply(&mut self.stable);
        }
    }

    /// Makes everything visible stable.
    pub(crate) fn flush(&mut self) {
        self.stable = self.visible.clone();
        self.log.clear();
    }

    /// Makes a random choice of the volatile changes stable: a flush that was interrupted.
    pub(crate) fn flush_partly(&mut self, random: &mut Random) {
        let coin = Coin::draw(random);
        for entry in &mut self.log {
            if entry.durability == Durability::Volatile && coin.flip(random) {
                entry.durability = Durability::Settled;
            }
        }
    }

    /// Loses of the volatile changes what `cut` says. The rest is stable on return.
    pub(crate) fn power_cut(&mut self, random: &mut Random, cut: Cut) {
        let log = std::mem::take(&mut self.log);
        match cut {
            Cut::LoseAll => self.replay(&log, |_, _| {}),
            Cut::KeepAll => self.stable = self.visible.clone(),
            Cut::Prefix => self.keep_prefix(&log, random),
            Cut::EachWrite => {
                let coin = Coin::draw(random);
                self.replay(&log, |entry, stable| {
                    if coin.flip(random) {
                        entry.apply(stable);
                    }
                });
            }
            Cut::EachSector => {
                let coin = Coin::draw(random);
                self.replay(&log, |entry, stable| entry.apply_pieces(stable, &coin, random));
            }
        }
        self.visible = self.stable.clone();
    }

    /// The number of changes a power cut may lose.
    pub(crate) fn volatile_changes(&self) -> usize {
        volatile_changes(&self.log)
    }

    fn keep_prefix(&mut self, log: &[Entry], random: &mut Random) {
        let volatile = volatile_changes(log);
        if volatile == 0 {
            return self.replay(log, |_, _| {});
        }
        let mut whole = random.below(volatile as u64);
        let mut torn = true;
        self.replay(log, |entry, stable| {
            if whole > 0 {
                whole -= 1;
                entry.apply(stable);
            } else if torn {
                torn = false;
                let kept = random.below(entry.sectors.count + 1);
                entry.apply_part(stable, entry.sectors.leading(kept));
            }
        });
    }

    /// Applies the log to the stable contents in order: settled changes whole, volatile ones
    /// as `volatile` does.
    fn replay(&mut self, log: &[Entry], mut volatile: impl FnMut(&Entry, &mut Contents)) {
        for entry in log {
            match entry.durability {
                Durability::Settled => entry.apply(&mut self.stable),
                Durability::Volatile => volatile(entry, &mut self.stable),
            }
        }
    }
}

impl Change {
    /// The change of the first `sectors` of its run, when the rest is not to happen.
    pub(crate) fn truncate(self, sectors: Sectors) -> Self {
        let length = memory_length(sectors.count * SECTOR_BYTES);
        match self {
            Self::Write(data) => Self::Write(data[..length].into()),
            Self::Discard => Self::Discard,
            Self::Damage(mask) => Self::Damage(mask[..length].into()),
        }
    }
}

impl Entry {
    fn apply(&self, contents: &mut Contents) {
        self.apply_part(contents, self.sectors);
    }

    /// Applies the change to `part` of its sectors.
    fn apply_part(&self, contents: &mut Contents, part: Sectors) {
        let start = memory_length((part.first - self.sectors.first) * SECTOR_BYTES);
        let length = memory_length(part.count * SECTOR_BYTES);
        match &self.change {
            Change::Write(data) => contents.write(part, &data[start..start + length]),
            Change::Discard => contents.zero(part),
            Change::Damage(mask) => contents.flip(part, &mask[start..start + length]),
        }
    }

    /// Applies the change to each sector for which the coin says so.
    fn apply_pieces(&self, contents: &mut Contents, coin: &Coin, random: &mut Random) {
        let step = match self.change {
            Change::Discard => self.sectors.count.div_ceil(DISCARD_PIECES_MAX),
            Change::Write(_) | Change::Damage(_) => 1,
        };
        let mut first = self.sectors.first;
        while first < self.sectors.end() {
            let end = self.sectors.end().min(first + step);
            if coin.flip(random) {
                self.apply_part(contents, Sectors::between(first, end));
            }
            first = end;
        }
    }
}

impl Coin {
    /// A coin that mostly loses, is even, or mostly keeps: an even one would hardly ever lose
    /// all of many versions of a sector, nor keep all of many writes.
    fn draw(random: &mut Random) -> Self {
        Self { heads_of_eight: random.range(1..8) }
    }

    fn flip(&self, random: &mut Random) -> bool {
        random.chance(self.heads_of_eight, 8)
    }
}

fn volatile_changes(log: &[Entry]) -> usize {
    log.iter().filter(|entry| entry.durability == Durability::Volatile).count()
}
