//! A program that locks a file or block device and writes to it, to be killed meanwhile.
//!
//! `holder flock PATH` locks a file by flock, `holder exclusive PATH` a block device by O_EXCL.
//! It says `locked`, writes 4096 bytes at offset 0 through an io_uring on that very open file,
//! and says `written` when that was answered.

use std::{
    env,
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    sync::Arc,
};

use fathom_test_fuse::{HOLD_MAX, ring::Ring};
use rustix::fs::{FlockOperation, OFlags, flock};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [how, path] = &arguments[..] else {
        return Err(io::Error::other("usage: holder flock|exclusive PATH"));
    };
    let exclusive = how == "exclusive";
    let mut flags = OFlags::DIRECT;
    flags.set(OFlags::EXCL, exclusive);
    let flags = flags.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
    if !exclusive {
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    }
    say("locked")?;
    let mut ring = Ring::new()?;
    let write = ring.write(&Arc::new(file), 0, &[0xAB; 4096])?;
    ring.wait(write, 2 * HOLD_MAX)?;
    say("written")
}

fn say(word: &str) -> io::Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{word}")?;
    output.flush()
}
