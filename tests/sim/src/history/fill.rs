//! What the store tells of how full it is, against what it says when it is asked.

use fathom_lvs::Event;

use super::History;

impl History {
    /// Every change is told once, and what was told holds.
    pub(super) fn take_told(&mut self) -> Result<(), String> {
        for event in core::mem::take(&mut self.rig.told) {
            let told = &mut self.told;
            let (level, becomes) = match event {
                Event::AboveHighWatermark => (&mut told.above_high_watermark, true),
                Event::BelowLowWatermark => (&mut told.above_high_watermark, false),
                Event::Full => (&mut told.full, true),
                Event::NotFull => (&mut told.full, false),
                Event::Overcommitted => (&mut told.overcommitted, true),
                Event::NotOvercommitted => (&mut told.overcommitted, false),
            };
            if core::mem::replace(level, becomes) == becomes {
                return Err(format!("{event:?} was told twice"));
            }
        }
        let (store, told) = (&self.rig.store, self.told);
        if told != store.fill() {
            return Err(format!("{told:?} was told, and it is {:?}", store.fill()));
        }
        let capacity = store.capacity();
        let percent = |mark: u16| capacity.physical.0 * u64::from(mark);
        let record = store.pool();
        let (low, high) = (record.watermark_low_percent, record.watermark_high_percent);
        // What nobody can take counts as used.
        let used = (capacity.allocated.0 + capacity.unreachable.0) * 100;
        let high_enough = high > 0 && used >= percent(high);
        let low_enough = high == 0 || used < percent(if low == 0 { high } else { low.min(high) });
        let above = told.above_high_watermark;
        if high_enough && !above || low_enough && above {
            return Err(format!("{capacity:?}, marks {low} and {high}, above: {above}"));
        }
        let promised: u64 =
            store.volumes().filter(|volume| volume.tip.is_some()).map(|volume| volume.size.0).sum();
        if told.overcommitted != (promised > capacity.physical.0) {
            return Err(format!("{promised} are promised of {capacity:?}: {told:?}"));
        }
        Ok(())
    }
}
