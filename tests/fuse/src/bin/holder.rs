//! A program that takes a file or block device as the daemon does, and writes to it, to be
//! killed meanwhile.
//!
//! `holder PATH` opens and locks it, says `locked`, writes 4096 bytes at offset 0 on that very
//! open file, and says `written` when that was answered.

use std::{
    env,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use fathom_runtime::device::DeviceFile;
use fathom_test_fuse::ring::Ring;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [path] = &arguments[..] else {
        return Err(io::Error::other("usage: holder PATH"));
    };
    let device = DeviceFile::open(Path::new(path), Duration::ZERO).map_err(io::Error::other)?;
    say("locked")?;
    let ring = Ring::over(vec![Arc::new(device)]).map_err(io::Error::other)?;
    let outcome = ring.write(0, 0, &[0xAB; 4096]).recv().map_err(io::Error::other)?;
    outcome.map_err(|errno| io::Error::from_raw_os_error(errno.0))?;
    say("written")
}

fn say(word: &str) -> io::Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{word}")?;
    output.flush()
}
