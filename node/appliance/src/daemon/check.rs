//! `fathom node --check`: whether the configuration is right and this machine can run it. Nothing is
//! opened for writing, and no port is taken.

use std::{error::Error, path::PathBuf};

use fathom_engine::{
    message::NodeMessage,
    native::devices::{Finding, inspect},
};
use fathom_runtime::{Configuration, Loops};

use super::config::{Backing, Config};

/// Tells what is right, a line each.
///
/// # Errors
///
/// Everything that is wrong.
pub(super) fn check(config: &Config) -> Result<(), Box<dyn Error>> {
    let mut wrong = Vec::new();
    let cores = Configuration { cores: config.cores.clone(), ..Default::default() };
    match Loops::<NodeMessage>::start(&cores) {
        Ok(loops) => say(&format!("event loops: {} can run", loops.count())),
        Err(error) => wrong.push(error.to_string()),
    }
    for pool in &config.pools {
        let name = &pool.name;
        let (paths, size) = match &pool.backing {
            Backing::Memory(size) => {
                say(&format!("pool \"{name}\": {size} bytes in memory"));
                continue;
            }
            Backing::Paths { paths, size } => (paths, size),
        };
        let missing: Vec<&PathBuf> = paths.iter().filter(|path| !path.exists()).collect();
        if !missing.is_empty() && size.is_none() {
            let missing: Vec<String> = missing.iter().map(|p| p.display().to_string()).collect();
            let missing = missing.join(", ");
            wrong.push(format!("pool \"{name}\": {missing}: not there, and no size is given"));
            continue;
        }
        let there: Vec<_> =
            paths.iter().filter(|path| path.exists()).map(PathBuf::as_path).collect();
        for device in inspect(there) {
            // All of them are to be members, or, where some are to be made, none.
            let fits = match &device.finding {
                Finding::Member(label) => missing.is_empty() && label.name == *name,
                Finding::Blank => !missing.is_empty(),
                _ => false,
            };
            match fits {
                true => say(&format!("pool \"{name}\": {device}")),
                false => wrong.push(format!("pool \"{name}\": {device}")),
            }
        }
        for path in missing {
            say(&format!("pool \"{name}\": {} will be made", path.display()));
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n").into()),
    }
}

#[expect(clippy::print_stdout, reason = "the report is what was asked for")]
fn say(line: &str) {
    println!("{line}");
}
