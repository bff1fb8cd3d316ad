//! Shows that the crash enumeration finds what is wrong: defects are planted in the store, one at
//! a time, and each has to be found.
//!
//! ```text
//!   repository --copy--> sandbox --build--> executable of the sound store
//!                           |                        |  the same seed must pass here
//!                  plant, build, revert              |
//!                           v                        |
//!                  executable with a defect --seeds--+--> found, or not
//! ```
//!
//! A defect is a change of the source ([`catalog`]), made in a copy ([`sandbox`]): production code
//! knows nothing of it. The crash test is run once for each seed ([`trial`]), so that it is known
//! which one found what, however the store ended.
//!
//! `FATHOM_SEEDS` says how many seeds may be tried for each defect (300 by default); arguments name
//! the defects to plant (all by default). Ends in success only if every one of them was found.

mod catalog;
mod sandbox;
mod trial;

use std::process::ExitCode;
use std::time::Instant;

use catalog::{DEFECTS, Defect};
use sandbox::{Build, Sandbox};
use trial::{Failure, Trial};

const SEEDS: u64 = 300;
/// Seeds that the sound store has to pass before anything is planted.
const SOUND_SEEDS: u64 = 16;
/// What is printed of a failure, in characters.
const FAILURE_CHARACTERS: usize = 160;

/// What became of a defect.
enum Verdict {
    Found(Failure),
    NotFound,
    /// The sound store fails with this seed, too: it shows nothing.
    Sound(Failure),
    /// The list is wrong, not the tests.
    DoesNotCompile(String),
}

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn main() -> ExitCode {
    match run(|line| println!("{line}")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Plants every chosen defect; returns whether all were found.
fn run(report: impl Fn(String)) -> Result<bool, String> {
    let seeds = seeds()?;
    let chosen = chosen(std::env::args().skip(1).collect())?;
    let sandbox = Sandbox::new().map_err(|error| format!("copying the repository: {error}"))?;
    for defect in &chosen {
        sandbox.fits(defect)?;
    }
    let begun = Instant::now();
    let sound = match sandbox.build("sound").map_err(|error| error.to_string())? {
        Build::Executable(path) => Trial::new(path),
        Build::Failed(output) => return Err(format!("the store does not compile:\n{output}")),
    };
    if let Some(Failure { seed, what }) = sound.first_failure(0..SOUND_SEEDS.min(seeds))? {
        return Err(format!("the store without a defect fails with seed {seed}: {what}"));
    }
    let seconds = begun.elapsed().as_secs();
    report(format!("without a defect: passed {} seeds, {seconds} s", SOUND_SEEDS.min(seeds)));
    let mut failed = Vec::new();
    for defect in &chosen {
        let begun = Instant::now();
        let verdict = plant(&sandbox, defect, &sound, seeds)?;
        let seconds = begun.elapsed().as_secs();
        let line = format!("{}: {seconds} s, {}", defect.name, describe(&verdict, defect, seeds));
        report(line.clone());
        if !matches!(verdict, Verdict::Found(_)) {
            failed.push(line);
        }
    }
    // Again, where they are seen: at the end of a long report.
    let count = failed.len();
    failed.into_iter().for_each(&report);
    report(format!("{} passed, {count} failed", chosen.len() - count));
    Ok(count == 0)
}

fn seeds() -> Result<u64, String> {
    match std::env::var("FATHOM_SEEDS") {
        Ok(value) => value
            .parse()
            .ok()
            .filter(|&seeds| seeds > 0)
            .ok_or_else(|| format!("FATHOM_SEEDS is \"{value}\", not a positive number")),
        Err(_) => Ok(SEEDS),
    }
}

fn chosen(names: Vec<String>) -> Result<Vec<&'static Defect>, String> {
    if names.is_empty() {
        return Ok(DEFECTS.iter().collect());
    }
    let named = |name: &String| {
        let defect = DEFECTS.iter().find(|defect| defect.name == *name);
        defect.ok_or_else(|| format!("there is no defect \"{name}\""))
    };
    names.iter().map(named).collect()
}

fn plant(sandbox: &Sandbox, defect: &Defect, sound: &Trial, seeds: u64) -> Result<Verdict, String> {
    let build = sandbox.build_with(defect)?;
    let planted = match build {
        Build::Executable(path) => Trial::new(path),
        Build::Failed(output) => return Ok(Verdict::DoesNotCompile(output)),
    };
    let Some(failure) = planted.first_failure(0..seeds)? else { return Ok(Verdict::NotFound) };
    let with_this_seed = sound.first_failure(failure.seed..failure.seed + 1)?;
    Ok(match with_this_seed {
        None => Verdict::Found(failure),
        Some(failure) => Verdict::Sound(failure),
    })
}

fn describe(verdict: &Verdict, defect: &Defect, seeds: u64) -> String {
    let shown = |what: &str| what.chars().take(FAILURE_CHARACTERS).collect::<String>();
    match verdict {
        Verdict::Found(Failure { seed, what }) => {
            format!("found with seed {seed}: {}", shown(what))
        }
        Verdict::NotFound => format!("NOT FOUND with {seeds} seeds: {}", defect.wrong),
        Verdict::Sound(Failure { seed, what }) => {
            format!("NOT SHOWN, seed {seed} fails without it, too: {}", shown(what))
        }
        Verdict::DoesNotCompile(output) => format!("DOES NOT COMPILE:\n{output}"),
    }
}
