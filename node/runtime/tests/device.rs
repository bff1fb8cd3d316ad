//! Device files on the real file system of the build folder.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use fathom_runtime::device::{Allocation, DeviceError, DeviceFile, Kind};
use fathom_units::ByteCount;
use rustix::fs::{FileType, Mode, mknodat};

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(120);

/// A folder of its own for each test, which begins empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("device").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the build folder can be written");
    folder
}

#[test]
fn a_new_file_has_its_size_and_takes_direct_io() {
    let path = folder("new").join("a");
    let file = DeviceFile::create(&path, 3 * MIB - 1, Allocation::Sparse).expect("a new file");
    assert_eq!((file.size(), file.kind()), (ByteCount(3 * MIB), Kind::File));
    assert!(file.sector_bytes() <= 4096);
    assert_eq!(file.path(), path);
    // Longer than one transfer, and at no particular place in memory.
    let bytes: Vec<u8> = (0..253).cycle().take((2 << 20) + 1).collect();
    let written = &bytes[1..];
    file.write_at(4096, written).expect("it is written");
    file.flush().expect("it is flushed");
    drop(file);
    let file = DeviceFile::open(&path, Duration::ZERO).expect("it is free");
    assert_eq!(file.size(), ByteCount(3 * MIB));
    let mut read = vec![1; written.len() + 1];
    file.read_at(4096, &mut read[1..]).expect("it is read");
    assert_eq!(&read[1..], written);
    assert!(file.read_at(3 * MIB - 4096, &mut [0; 8192]).is_err(), "beyond the end");
}

#[test]
fn space_is_taken_at_once_when_asked_for() {
    use std::os::unix::fs::MetadataExt;
    let folder = folder("allocation");
    let blocks = |name: &str, allocation| {
        let path = folder.join(name);
        let file = DeviceFile::create(&path, 4 * MIB, allocation).expect("a new file");
        let sparse = fs::metadata(&path).expect("it is there").blocks() * 512;
        file.allocate(0, MIB).expect("there is space");
        (sparse, fs::metadata(&path).expect("it is there").blocks() * 512)
    };
    let (before, after) = blocks("full", Allocation::Full);
    assert!(before >= 4 * MIB && after == before);
    let (before, after) = blocks("sparse", Allocation::Sparse);
    assert!(before < MIB && after >= MIB);
}

#[test]
fn an_existing_file_is_never_made_anew() {
    let path = folder("existing").join("a");
    fs::write(&path, b"precious").expect("it can be written");
    let refused = DeviceFile::create(&path, MIB, Allocation::Sparse);
    assert!(matches!(refused, Err(DeviceError::Exists { .. })));
    assert_eq!(fs::read(&path).expect("it is there"), b"precious");
}

#[test]
fn a_file_that_cannot_be_made_leaves_nothing() {
    let folder = folder("unmade");
    let path = folder.join("a");
    let refused =
        DeviceFile::create(&path, 1 << 62, Allocation::Full).expect_err("no disk is so large");
    assert!(matches!(refused, DeviceError::Create { .. }), "{refused}");
    assert!(!path.exists());
    let nowhere = folder.join("none").join("a");
    let refused = DeviceFile::create(&nowhere, MIB, Allocation::Sparse);
    assert!(matches!(refused, Err(DeviceError::Create { .. })));
}

#[test]
fn a_device_in_use_is_refused_and_its_user_named() {
    let path = folder("used").join("a");
    let file = DeviceFile::create(&path, MIB, Allocation::Sparse).expect("a new file");
    let refused = DeviceFile::open(&path, Duration::from_millis(20)).expect_err("it is in use");
    let text = refused.to_string();
    let process = format!("is in use by process {}", std::process::id());
    assert!(text.contains(&process), "{text}");
    drop(file);
    DeviceFile::open(&path, Duration::ZERO).expect("it is free");
}

#[test]
fn a_lock_that_is_given_up_in_time_is_taken() {
    let path = folder("waited").join("a");
    let file = DeviceFile::create(&path, MIB, Allocation::Sparse).expect("a new file");
    let (begin, began) = mpsc::channel();
    let waiting = thread::spawn(move || {
        let refused = DeviceFile::open(&path, Duration::ZERO);
        assert!(matches!(refused, Err(DeviceError::InUse { .. })));
        begin.send(()).expect("the test waits");
        DeviceFile::open(&path, LONG).map(drop)
    });
    began.recv_timeout(LONG).expect("it begins");
    drop(file);
    waiting.join().expect("it does not panic").expect("the lock is taken");
}

#[test]
fn what_is_no_device_is_refused() {
    let folder = folder("kinds");
    let fifo = folder.join("fifo");
    mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a fifo");
    for path in [folder.as_path(), &fifo, Path::new("/dev/null")] {
        let refused = DeviceFile::open(path, Duration::ZERO);
        assert!(matches!(refused, Err(DeviceError::Kind { .. })), "{}", path.display());
    }
    let missing = DeviceFile::open(&folder.join("missing"), LONG);
    assert!(matches!(missing, Err(DeviceError::Open { .. })), "not waited for");
}

#[test]
fn a_file_system_without_direct_io_is_named_as_the_cause() {
    let refused = DeviceFile::open(Path::new("/proc/self/comm"), LONG).expect_err("proc has none");
    assert!(matches!(refused, DeviceError::NoDirectIo { .. }));
    assert!(refused.to_string().contains("O_DIRECT"), "{refused}");
}

#[test]
fn a_device_that_is_opened_for_reading_is_locked_against_writers_and_never_written() {
    let path = folder("reading").join("a");
    let own = DeviceFile::create(&path, MIB, Allocation::Sparse).expect("a new file");
    own.write_at(4096, &[7; 4096]).expect("it is its own");
    let refused = DeviceFile::open_for_reading(&path, Duration::ZERO);
    assert!(matches!(refused, Err(DeviceError::InUse { .. })), "somebody writes it");
    drop(own);
    let reader = DeviceFile::open_for_reading(&path, Duration::ZERO).expect("it is free");
    let other = DeviceFile::open_for_reading(&path, Duration::ZERO).expect("readers share it");
    let refused = DeviceFile::open(&path, Duration::ZERO);
    assert!(matches!(refused, Err(DeviceError::InUse { .. })), "somebody reads it");
    let mut bytes = [0; 4096];
    reader.read_at(4096, &mut bytes).expect("it can be read");
    assert_eq!(bytes, [7; 4096]);
    reader.write_at(4096, &[8; 4096]).expect_err("it cannot be written");
    assert!(!reader.discards(), "nor can its space be given back");
    drop((reader, other));
    DeviceFile::open(&path, Duration::ZERO).expect("it is free");
}

#[test]
fn a_look_disturbs_nobody() {
    let path = folder("look").join("a");
    let own = DeviceFile::create(&path, MIB, Allocation::Sparse).expect("a new file");
    own.write_at(0, &[7; 4096]).expect("it is its own");
    let look = DeviceFile::open_to_look(&path).expect("whoever has it");
    let mut bytes = [0; 4096];
    look.read_at(0, &mut bytes).expect("it can be read");
    assert_eq!(bytes, [7; 4096]);
    look.write_at(0, &[8; 4096]).expect_err("it cannot be written");
    drop(own);
    DeviceFile::open(&path, Duration::ZERO).expect("a look is no lock");
}

#[test]
fn a_file_that_grows_says_so() {
    let path = folder("grows").join("a");
    let file = DeviceFile::create(&path, MIB, Allocation::Sparse).expect("a new file");
    std::fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|other| other.set_len(3 * MIB))
        .expect("it can be longer");
    let now = file.size_now().expect("the kernel knows");
    assert_eq!((file.size().0, now.0), (MIB, 3 * MIB));
}
