//! What `tests/fuzz/run` needs beside the fuzzer: seeds to begin from, and a way to repeat.
//!
//! - `seeds FOLDER` writes the seeds of each target into a folder of its name and prints the names;
//! - `repeat TARGET FILE` runs a target on what a fuzzer found, on the stable toolchain.

use std::{fs, io, path::Path, process::ExitCode};

use fathom_test_hostile::targets::{TARGETS, target};

#[expect(clippy::print_stdout, reason = "the names of the targets are for the script that asks")]
fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["seeds", folder] => {
            for target in TARGETS {
                let folder = Path::new(folder).join(target.name);
                fs::create_dir_all(&folder)?;
                for (number, seed) in target.seeds().into_iter().enumerate() {
                    fs::write(folder.join(format!("seed-{number}")), seed)?;
                }
                println!("{}", target.name);
            }
            Ok(ExitCode::SUCCESS)
        }
        ["repeat", name, file] => {
            target(name).run(&fs::read(file)?);
            println!("{name} takes this input");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!("usage: fathom-test-hostile seeds FOLDER | repeat TARGET FILE");
            Ok(ExitCode::FAILURE)
        }
    }
}
