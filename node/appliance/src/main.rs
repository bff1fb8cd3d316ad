//! `fathom`: the appliance daemon, and the command line that talks to it.
//!
//! - [`command`]: every word of the command line.
//! - [`daemon`]: `fathom node`, which composes the crates of `node/`.
//! - [`client`]: every other command: a call of the daemon's API, and its answer shown by [`output`].
//! - [`size`], [`paths`]: sizes as people write them, and where things are by default.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 the command line is wrong.

mod client;
mod command;
mod daemon;
mod output;
mod paths;
mod size;

use std::{error::Error, io::IsTerminal as _, process::ExitCode};

use clap::Parser as _;

use crate::command::{Cli, Command, NodeCommand};

fn main() -> ExitCode {
    let Cli { api, output, command } = Cli::parse();
    let result = match command {
        Command::Node(NodeCommand { show: Some(command), .. }) => {
            client::node(api, output, command)
        }
        Command::Node(NodeCommand { flags, check, .. }) => {
            log();
            daemon::main(flags, api, check)
        }
        Command::Pool(command) => client::pool(api, output, command),
        Command::Volume(command) => client::volume(api, output, command),
        Command::Snapshot(command) => client::snapshot(api, output, command),
        Command::Bench(command) => client::bench(api, output, command),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&*error);
            ExitCode::FAILURE
        }
    }
}

/// Says what went wrong, on standard error.
fn tell(error: &dyn Error) {
    eprintln!("fathom: {error}");
}

/// Logs go to standard error: from `info` on, or as `RUST_LOG` says.
fn log() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
