//! Crashes the disks of a moment in every way, opens the pool from them and compares.

use fathom_lvs::OpenOptions;
use fathom_test_fuse::Moment;
use fathom_test_sim::{
    history::observe,
    model::Crash,
    rig::{Disks, Rig},
};
use fathom_test_support::{
    disk::{Cut, SimulatedDisk},
    random::Random,
};

use crate::journal::{Observed, Record};

/// What came of a moment.
#[derive(Clone, Copy, Default, Debug)]
pub struct Verified {
    /// Crashes from which the pool was opened and compared.
    pub crashes: u64,
    /// Blocks that opening took back.
    pub taken_back: u64,
    /// Entries of the log that it replayed.
    pub replayed: u64,
    /// Requests that were under way at the moment.
    pub under_way: u64,
}

impl Verified {
    /// Adds up.
    pub fn add(&mut self, other: Self) {
        self.crashes += other.crashes;
        self.taken_back += other.taken_back;
        self.replayed += other.replayed;
        self.under_way += other.under_way;
    }
}

/// Crashes the process at this moment, and cuts the power in each mode.
///
/// # Errors
///
/// What is wrong first, with the crash after which it is.
pub fn all_crashes(
    moment: &Moment,
    record: &Record,
    random: &mut Random,
) -> Result<Verified, String> {
    let mut verified = Verified { under_way: moment.under_way() as u64, ..Verified::default() };
    let killed = moment.after_process_crash();
    one_crash(killed, record, Crash::Daemon, random, &mut verified)
        .map_err(|error| format!("{error} (the process died)"))?;
    for cut in Cut::ALL {
        let disks = moment.after_power_cut(random, cut);
        one_crash(disks, record, Crash::Power, random, &mut verified)
            .map_err(|error| format!("{error} (power was lost, {cut:?})"))?;
    }
    Ok(verified)
}

fn one_crash(
    disks: Vec<SimulatedDisk>,
    record: &Record,
    crash: Crash,
    random: &mut Random,
    verified: &mut Verified,
) -> Result<(), String> {
    let mut rig =
        Rig::open(Disks(disks), OpenOptions::default()).map_err(|failed| failed.0.to_string())?;
    let observed: Observed = observe(&mut rig, random);
    record.check(&observed, crash)?;
    verified.crashes += 1;
    verified.taken_back += rig.taken_back;
    verified.replayed += rig.replayed;
    Ok(())
}
