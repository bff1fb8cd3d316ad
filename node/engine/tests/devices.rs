//! Finding, importing and destroying pools on files of the build folder.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use fathom_engine::native::{
    check::check,
    devices::{Finding, ImportError, Wanted, block_devices, inspect, survey},
    handle::PoolHandle,
    members::{Member, Members, Opened, PoolError, destroy},
    message::PoolMessage,
};
use fathom_lvs::{
    Content, CreateError, DestroyError, DestroyOptions, NewMember, NewPool, OpenError, OpenOptions,
    Severity,
    format::op::PoolRecord,
    geometry::{ClusterSize, MemberIndex},
};
use fathom_runtime::{
    Configuration, Loops,
    device::{Allocation, DeviceError, DeviceFile},
};
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(120);
const WHOLE: OpenOptions = OpenOptions::WHOLE;

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("devices").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the build folder can be written");
    folder
}

fn file(path: &Path) -> Member {
    DeviceFile::create(path, 32 * MIB, Allocation::Sparse).expect("a new file").into()
}

fn new_pool(name: &str, uuid: u128, members: usize) -> NewPool {
    let member = |index| NewMember { uuid: Uuid::from_u128(uuid << 8 | index as u128) };
    NewPool {
        name: name.to_owned(),
        uuid: Uuid::from_u128(uuid << 64 | uuid),
        members: (0..members).map(member).collect(),
        cluster_size: ClusterSize::new(64 << 10).expect("a legal size"),
        created_ns: 1,
        record: PoolRecord::default(),
        log_bytes: None,
        slot_bytes: None,
        force: false,
    }
}

/// A pool on new files of these names.
fn pool(folder: &Path, name: &str, uuid: u128, files: &[&str]) -> Vec<PathBuf> {
    let paths: Vec<PathBuf> = files.iter().map(|name| folder.join(name)).collect();
    let members = Members(paths.iter().map(|path| file(path)).collect());
    Opened::create(members, &new_pool(name, uuid, files.len())).expect("a new pool");
    paths
}

fn members(paths: &[PathBuf]) -> Members {
    Members::open(paths, LONG).expect("they are free")
}

fn find<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Vec<Finding> {
    let found = inspect(paths.into_iter().map(PathBuf::as_path));
    found.into_iter().map(|device| device.finding).collect()
}

fn import(paths: &[PathBuf], wanted: &Wanted) -> Result<Opened, ImportError> {
    Opened::import(paths, wanted, WHOLE, LONG)
}

fn refusal(paths: &[PathBuf], wanted: &Wanted) -> ImportError {
    import(paths, wanted).map(drop).expect_err("it is refused")
}

#[test]
fn each_kind_of_device_is_told_apart_and_nothing_is_written() {
    let folder = folder("kinds");
    let own = pool(&folder, "tank", 1, &["a", "b"]);
    let [blank, small, foreign, unknown, none] =
        ["blank", "small", "foreign", "unknown", "none"].map(|name| folder.join(name));
    drop(file(&blank));
    drop(DeviceFile::create(&small, MIB, Allocation::Sparse).expect("a new file"));
    drop((file(&foreign), file(&unknown)));
    let write = |path: &Path, offset, bytes: &[u8]| {
        let file = fs::File::options().write(true).open(path).expect("it exists");
        file.write_all_at(bytes, offset).expect("it can be written");
    };
    write(&foreign, 0x438, b"\x53\xEF");
    write(&unknown, 32 * MIB - 1, b"x");
    let paths = [&own[1], &blank, &small, &foreign, &unknown, &none, &folder];
    let before: Vec<_> = paths[..5].iter().map(|path| fs::read(path).expect("readable")).collect();
    let found = find(paths);
    let Finding::Member(label) = &found[0] else { panic!("{:?}", found[0]) };
    assert_eq!(
        (label.name.as_str(), label.index, label.members.len()),
        ("tank", MemberIndex(1), 2)
    );
    assert_eq!(found[1..3], [Finding::Blank, Finding::TooSmall]);
    let what = Some("an ext2, ext3 or ext4 file system");
    assert_eq!(found[3], Finding::Occupied(Content::Other { offset: 0x438, what }));
    let last = Content::Other { offset: 32 * MIB - 1, what: None };
    assert_eq!(found[4], Finding::Occupied(last));
    assert!(found[5..].iter().all(|found| matches!(found, Finding::Unreadable(_))), "{found:?}");
    for (path, before) in paths.iter().zip(before) {
        assert!(fs::read(path).expect("readable") == before, "{} is as it was", path.display());
    }
    let told = inspect([own[1].as_path()])[0].to_string();
    assert!(told.contains("member 1 of 2 of pool \"tank\""), "{told}");
}

#[test]
fn a_device_in_use_is_looked_at_and_its_user_named() {
    let folder = folder("used");
    let paths = pool(&folder, "tank", 1, &["a"]);
    let held = members(&paths);
    let found = inspect([paths[0].as_path()]);
    assert!(matches!(found[0].finding, Finding::Member(_)));
    let holder = found[0].holder.as_ref().expect("somebody has it");
    assert!(holder.contains(&std::process::id().to_string()), "{holder}");
    drop(held);
    assert_eq!(inspect([paths[0].as_path()])[0].holder, None);
}

#[test]
fn pools_are_put_together_from_devices_in_any_order_under_any_name() {
    let folder = folder("survey");
    let tank = pool(&folder, "tank", 1, &["a", "b", "c"]);
    let lake = pool(&folder, "lake", 2, &["d"]);
    let moved = folder.join("moved");
    fs::rename(&tank[0], &moved).expect("it can be renamed");
    let link = folder.join("link");
    std::os::unix::fs::symlink(&tank[1], &link).expect("a link");
    let blank = folder.join("blank");
    drop(file(&blank));
    let all = [tank[2].clone(), lake[0].clone(), link, blank, moved, tank[1].clone()];
    let found = survey(all.iter().map(PathBuf::as_path));
    assert_eq!(found.devices.len(), 5, "a link is no second device");
    let pools: Vec<&str> = found.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(pools, ["lake", "tank"]);
    let opened = import(&all, &Wanted::Named("tank".to_owned())).expect("it is whole");
    assert_eq!(opened.name(), "tank");
    drop(opened);
    import(&all, &Wanted::Uuid(Uuid::from_u128(2 << 64 | 2))).expect("it is whole");
    let several = refusal(&all, &Wanted::Only);
    assert!(matches!(&several, ImportError::Several { pools } if pools.len() == 2), "{several}");
    import(&lake, &Wanted::Only).expect("there is no other");
    let none = refusal(&lake, &Wanted::Named("tank".to_owned()));
    assert!(none.to_string().contains("pool \"lake\""), "{none}");
}

#[test]
fn missing_members_and_copies_are_refused_by_name() {
    let folder = folder("missing");
    let paths = pool(&folder, "tank", 1, &["a", "b", "c"]);
    let refused = refusal(&paths[..2], &Wanted::Only);
    assert!(matches!(&refused, ImportError::Missing { missing, .. } if missing.len() == 1));
    let text = refused.to_string();
    assert!(text.contains("member 2 (") && text.contains(&*paths[0].to_string_lossy()), "{text}");
    let copy = folder.join("copy");
    fs::copy(&paths[1], &copy).expect("it can be copied");
    let all = [&paths[..], std::slice::from_ref(&copy)].concat();
    let text = refusal(&all, &Wanted::Only).to_string();
    for path in [&paths[1], &copy] {
        assert!(text.contains(&*path.to_string_lossy()), "{text}");
    }
    assert!(text.contains("both claim to be member 1"), "{text}");
    Opened::import(&paths[..2], &Wanted::Only, OpenOptions::DEGRADED, LONG).expect("as asked for");
}

#[test]
fn a_pool_in_use_and_one_that_is_refused_say_so_with_the_device() {
    let folder = folder("refused");
    let paths = pool(&folder, "tank", 1, &["a", "b"]);
    let held = members(&paths[1..]);
    let wait = Duration::from_millis(20);
    let refused = Opened::import(&paths, &Wanted::Only, WHOLE, wait).map(drop);
    assert!(matches!(refused, Err(ImportError::Device(DeviceError::InUse { .. }))));
    drop(held);
    let file = fs::File::options().write(true).open(&paths[1]).expect("it exists");
    file.set_len(16 * MIB).expect("it can be cut");
    let refused = refusal(&paths, &Wanted::Only);
    let text = refused.to_string();
    let named = text.contains(&format!("slot 1 is {}", paths[1].display()));
    assert!(matches!(refused, ImportError::Pool { .. }) && named, "{text}");
}

#[test]
fn what_stands_on_a_device_is_destroyed_only_when_forced_and_then_named() {
    let folder = folder("force");
    let paths = pool(&folder, "tank", 1, &["a"]);
    let blank = folder.join("blank");
    drop(file(&blank));
    let both = [blank, paths[0].clone()];
    let new = new_pool("lake", 2, 2);
    let refused = Opened::create(members(&both), &new).map(drop).expect_err("it is a member");
    assert!(matches!(refused, PoolError::Create(CreateError::Labelled { slot: 1, .. })));
    import(&paths, &Wanted::Only).expect("it is as it was");
    let (opened, destroyed) = Opened::create_over(members(&both), &new).expect("forced");
    assert_eq!(opened.name(), "lake");
    let [(device, content)] = &destroyed[..] else { panic!("{destroyed:?}") };
    assert_eq!(*device, paths[0].display().to_string());
    assert!(content.to_string().contains("pool \"tank\""), "{content}");
}

#[test]
fn a_destroyed_pool_leaves_blank_devices() {
    let folder = folder("destroy");
    let paths = pool(&folder, "tank", 1, &["a", "b", "c"]);
    let running = Loops::<PoolMessage>::start(&Configuration::default()).expect("loops start");
    let opened = Opened::open(members(&paths), WHOLE).expect("it opens");
    let handle = PoolHandle::start(running.remote(0), opened).expect("the loop runs");
    let used = Members::open(&paths, Duration::ZERO).expect_err("the pool has them");
    assert!(matches!(used, DeviceError::InUse { .. }), "{used}");
    handle.retire();
    let part = destroy(members(&paths[..2]), DestroyOptions::default());
    assert!(matches!(part, Err(DestroyError::Open(OpenError::Missing { .. }))), "{part:?}");
    let destroyed = destroy(members(&paths), DestroyOptions::default()).expect("it is empty");
    assert_eq!((destroyed.name.as_str(), destroyed.objects.len()), ("tank", 0));
    assert!(find(&paths).iter().all(|found| *found == Finding::Blank));
    assert!(matches!(refusal(&paths, &Wanted::Only), ImportError::None { .. }));
    running.stop();
}

#[test]
fn the_block_devices_of_this_machine_are_paths_that_exist() {
    for path in block_devices().expect("the kernel's list") {
        assert!(path.exists(), "{}", path.display());
    }
}

#[test]
fn checking_a_pool_reads_only_and_names_the_device_and_the_byte() {
    let folder = folder("check");
    let paths = pool(&folder, "tank", 1, &["a", "b"]);
    let named = Wanted::Named("tank".to_owned());
    let content = |paths: &[PathBuf]| -> Vec<Vec<u8>> {
        paths.iter().map(|path| fs::read(path).expect("readable")).collect()
    };
    let before = content(&paths);
    let sound = check(&paths, &named, WHOLE, LONG).expect("nobody uses it");
    assert_eq!((sound.report.severity(), sound.lines()), (None, Vec::new()));
    assert_eq!(sound.report.checked.as_ref().map(|checked| checked.name.as_str()), Some("tank"));
    assert!(content(&paths) == before, "nothing is written");
    // Not even where it could not be.
    for path in &paths {
        let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o400);
        fs::set_permissions(path, read_only).expect("it is ours");
    }
    check(&paths, &named, WHOLE, LONG).expect("reading is enough");
    for path in &paths {
        let writable = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(path, writable).expect("it is ours");
    }
    let file = fs::File::options().write(true).open(&paths[1]).expect("it exists");
    file.write_all_at(b"x", MIB / 2 + 100).expect("it can be written");
    let damaged = check(&paths, &named, WHOLE, LONG).expect("nobody uses it");
    assert_eq!(damaged.report.severity(), Some(Severity::Warning));
    let line = &damaged.lines()[0];
    let place = format!("warning: {}: byte {}: label copy 1", paths[1].display(), MIB / 2);
    assert!(line.starts_with(&place), "{line}");
    let (report, others) = {
        let blank = folder.join("blank");
        drop(self::file(&blank));
        let one = check(&[paths[0].clone(), blank, folder.clone()], &named, WHOLE, LONG);
        let one = one.expect("a member is enough to look at");
        (one.report, one.others)
    };
    assert_eq!(report.severity(), Some(Severity::Damage));
    assert!(report.findings[0].detail.contains("member 1"), "{report:?}");
    assert_eq!(others.len(), 1, "the folder: {others:?}");
    let held = members(&paths[1..]);
    let used = check(&paths, &named, WHOLE, Duration::ZERO).expect_err("somebody writes it");
    assert!(matches!(used, ImportError::Device(DeviceError::InUse { .. })), "{used}");
    drop(held);
    let reading = Members::open_for_reading(&paths, LONG).expect("nobody writes it");
    check(&paths, &named, WHOLE, Duration::ZERO).expect("others may read it");
    let used = Opened::import(&paths, &Wanted::Only, WHOLE, Duration::ZERO).map(drop);
    let used = used.expect_err("somebody reads it");
    assert!(matches!(used, ImportError::Device(DeviceError::InUse { .. })), "{used}");
    drop(reading);
}
