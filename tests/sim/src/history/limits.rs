//! Limits in a history, and what they hold back.

use std::collections::BTreeSet;

use fathom_lvs::format::op::{QosLimits, Rates, VolumeRecord};

use super::{Call, History, Under};

impl History {
    /// The operations on a device that its limits hold back: the last ones of each direction.
    pub(super) fn held_back(&self, device: u128) -> BTreeSet<u64> {
        let object = self.object(device).expect("a device that is sure exists");
        let held = self.rig.store.held_back(object).unwrap_or_default();
        let last = |count: usize, fits: fn(&Under) -> bool| {
            let under =
                self.under.values().rev().filter(move |(_, under)| under.device() == device);
            under.filter(move |(_, under)| fits(under)).map(|&(operation, _)| operation).take(count)
        };
        let reads = last(held.reads_waiting, |under| {
            matches!(under, Under::Read { .. } | Under::Compare { .. })
        });
        reads
            .chain(last(held.writes_waiting, |under| {
                matches!(under, Under::Write { .. } | Under::CompareAndWrite { .. })
            }))
            .collect()
    }

    pub(super) fn some_limits(&mut self) -> QosLimits {
        let mut rates = |unit: u64| {
            let mut rate = || match self.random.below(3) {
                0 => (1 + self.random.below(200)) * unit,
                _ => 0,
            };
            Rates { all: rate(), read: rate(), write: rate() }
        };
        // A request takes some steps of a microsecond: a few of these limits are felt.
        let (iops, bandwidth) = (rates(2_000), rates(8 << 20));
        QosLimits { burst_s: u32::from(self.random.chance(1, 4)), iops, bandwidth }
    }

    pub(super) fn change_limits(&mut self) -> Result<(), String> {
        let Some(volume) = self.volume() else { return Ok(()) };
        let limits =
            if self.random.chance(1, 3) { QosLimits::default() } else { self.some_limits() };
        let record = VolumeRecord { limits, ..self.record(volume).expect("it exists").clone() };
        // A pool whose metadata is full refuses it.
        let Ok(ticket) = self.rig.store.update_volume(record) else { return Ok(()) };
        self.call = Some((ticket, Call::Limit));
        Ok(())
    }

    /// What reads or compares and is held back comes after the rollback: it sees what that brought,
    /// but where a write comes between.
    pub(super) fn expect_rollback(&mut self, volume: u128, rollback: u64, held: &BTreeSet<u64>) {
        let content = &self.model.devices[&volume];
        for (operation, under) in self.under.values_mut() {
            let (first, expected) = match under {
                Under::Read { first, expected, .. }
                | Under::Compare { first, expected, .. }
                | Under::CompareAndWrite { first, expected, .. } => (*first, expected),
                Under::Write { .. } | Under::Flush { .. } => continue,
            };
            if !held.contains(operation) {
                continue;
            }
            for (sector, expected) in (first..).zip(expected) {
                if !held.contains(&expected.operation) {
                    *expected = content.given_by(sector, rollback);
                }
            }
        }
    }

    pub(super) fn count_held_back(&mut self) {
        let store = &self.rig.store;
        let held = store.volumes().filter_map(|volume| store.held_back(volume.id));
        self.summary.held_back += held.map(|held| held.requests).sum::<u64>();
    }
}
