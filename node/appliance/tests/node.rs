//! The daemon as its users see it: commands, restarts, and what bad input gets.

mod daemon;

use std::{fs, os::unix::fs::PermissionsExt as _};

use daemon::{Home, names};

const MIB: u64 = 1 << 20;

#[test]
fn a_pool_on_a_file_has_volumes_snapshots_and_clones_and_survives_kill_and_restart() {
    let home = Home::new("story");
    let daemon = home.start(&["--pool", "tank=disk,size=64MiB"]);
    let volume = home.json("volume create db --size 16MiB --label team=a");
    assert_eq!(volume["size_bytes"], 16 * MIB);
    assert_eq!(volume["labels"]["team"], "a");
    assert_eq!(home.json("volume export db --host nqn.2026-01.x:h")["export"]["exported"], true);
    home.ok("snapshot create db@one");
    let clone = home.json("volume create copy --from db@one --size 32MiB");
    let snapshot = home.json("snapshot show db@one");
    assert_eq!(clone["source_uuid"], snapshot["uuid"]);
    assert_eq!(
        clone["labels"].as_object().expect("labels").len(),
        0,
        "the node's own is not shown"
    );
    let before = (home.json("volume list"), home.json("snapshot list"), home.json("pool list"));
    daemon.kill();
    // The state directory knows the pool.
    let daemon = home.start(&[]);
    let after = (home.json("volume list"), home.json("snapshot list"), home.json("pool list"));
    assert_eq!(before, after);
    assert!(daemon.terminate().success());
    assert!(!home.path("api").exists(), "the socket is gone");
    let _daemon = home.start(&[]);
    assert_eq!(before.0, home.json("volume list"));
}

#[test]
fn repeating_a_call_changes_nothing_and_another_one_under_its_name_is_refused() {
    let home = Home::new("again");
    let _daemon = home.start(&["--pool", "tank=memory,size=64MiB"]);
    let create = "volume create v --size 8MiB --iops-limit 100 --label a=1";
    let first = home.json(create);
    assert_eq!(first, home.json(create));
    for other in [
        "volume create v --size 9MiB --iops-limit 100 --label a=1",
        "volume create v --size 8MiB --iops-limit 100 --label a=2",
        "volume create v --size 8MiB --iops-limit 101 --label a=1",
        "volume create v --size 8MiB --iops-limit 100 --label a=1 --thick",
        "volume create v --size 8MiB --iops-limit 100 --label a=1 --write-cache off",
        "volume create v --size 8MiB --iops-limit 100 --label a=1 --block-size 512",
        "volume create v --from v",
    ] {
        let said = home.error(other);
        assert_eq!(said, "volume \"v\": the name is taken by a volume that was made otherwise");
    }
    let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
    let given = home.json(&format!("volume create w --size 8MiB --uuid {uuid}"));
    assert_eq!(given, home.json(&format!("volume create w --size 8MiB --uuid {uuid}")));
    assert_eq!(given, home.json(&format!("volume show {uuid}")));
    let said = home.error(&format!("volume create x --size 8MiB --uuid {uuid}"));
    assert!(said.contains(uuid) && said.contains("\"w\""), "{said}");

    let taken = home.json("snapshot create v@s w@s");
    assert_eq!(taken, home.json("snapshot create v@s w@s"));
    assert!(home.error("snapshot create v@s v@t").contains("v@s exist already"));
    assert!(home.error("snapshot create v@s w@s --label a=1").contains("taken otherwise"));
    assert_eq!(names(&home.json("snapshot list v")), ["s"]);
    home.ok("snapshot delete v@s");
    assert!(home.error("snapshot delete v@s").starts_with("there is no snapshot \"v@s\""));
    home.ok("snapshot delete v@s --if-exists");
    home.ok("volume delete v --if-exists");
    home.ok("volume delete v --if-exists");
    assert_eq!(home.volumes(), ["w"]);
}

#[test]
fn volumes_are_renamed_resized_limited_and_their_names_stay_while_snapshots_do() {
    let home = Home::new("change");
    let _daemon = home.start(&["--pool", "tank=memory,size=64MiB"]);
    home.ok("volume create a --size 8MiB");
    home.ok("volume create b --size 8MiB");
    assert!(home.error("volume rename a b").contains("the name \"b\" is taken"));
    assert_eq!(home.json("volume rename a c")["name"], "c");
    let larger = home.json("volume resize c --size 12MiB");
    assert_eq!((&larger["name"], &larger["size_bytes"]), (&"c".into(), &(12 * MIB).into()));
    assert!(home.error("volume resize c --size 8MiB").contains("cannot shrink"));
    home.ok("volume set c --bandwidth-limit 10MiB --burst 3");
    let set = home.json("volume set c --iops-limit 50 --label k=v");
    assert_eq!((&set["limits"]["iops"], &set["limits"]["burst_s"]), (&50.into(), &3.into()));
    assert_eq!(set["limits"]["bandwidth"], 10 * MIB);
    assert_eq!(
        home.json("volume set c --remove-label k")["labels"].as_object().map(|l| l.len()),
        Some(0)
    );
    assert!(home.error("volume set c --label fathom:source=x").contains("the node's own"));

    home.ok("snapshot create c@s");
    home.ok("volume delete c");
    assert_eq!(home.json("snapshot show c@s")["volume_deleted"], true);
    assert!(home.error("volume create c --size 8MiB").contains("still has snapshots"));
    assert!(home.error("snapshot rollback c@s").contains("was deleted"));
    home.ok("volume create d --from c@s");
    home.ok("snapshot delete c@s");
    home.ok("volume create c --size 8MiB");
    assert_eq!(home.volumes(), ["b", "d", "c"]);
}

#[test]
fn a_released_pool_comes_back_by_import_and_a_destroyed_one_does_not() {
    let home = Home::new("pools");
    let _daemon = home.start(&[]);
    assert_eq!(
        home.error("volume create v --size 1MiB").split(';').next(),
        Some("volume \"v\": the node has no pool")
    );
    let one = home.text("one");
    let two = home.text("two");
    assert!(home.error(&format!("pool create tank {one}")).contains("does not exist"));
    home.ok(&format!("pool create tank {one} {two} --size 64MiB --cluster-size 64KiB"));
    let again = format!("pool create tank {one} {two} --size 64MiB --cluster-size 64KiB");
    assert_eq!(home.json(&again), home.json("pool show tank"));
    assert!(home.error(&format!("pool create tank {one}")).contains("a pool of this name is open"));
    assert!(home.error(&format!("pool create other {one}")).contains(&one), "it is in use");
    home.ok("volume create v --size 8MiB");
    home.ok("volume export v --any-host");
    home.ok("pool release tank");
    assert!(home.error("pool show tank").starts_with("there is no pool \"tank\""));
    assert!(home.error(&format!("pool create other {one}")).contains("tank"), "it is not blank");
    let said = home.error(&format!("pool import {two}"));
    assert!(said.contains("not found:") && said.contains(&two), "{said}");
    // In any order.
    assert_eq!(names(&home.json(&format!("pool import {two} {one}"))), ["tank"]);
    assert_eq!(names(&home.json(&format!("pool import {two} {one}"))), ["tank"], "it is open");
    assert_eq!(home.json("volume show v")["export"]["any_host"], true);

    let said = home.error("pool destroy tank");
    assert!(said.contains("v; delete them, or destroy it with --force"), "{said}");
    home.ok("pool destroy tank --force");
    assert!(home.error(&format!("pool import {one} {two}")).contains("no pool"));
    home.ok(&format!("pool create fresh {one} {two}"));
    home.ok("pool destroy fresh");
}

#[test]
fn a_pool_grows_by_a_file_and_by_a_file_that_has_grown_while_it_is_open() {
    let home = Home::new("grow");
    let daemon = home.start(&["--pool", "tank=one,size=64MiB"]);
    let size =
        |pool: &serde_json::Value| pool["capacity"]["physical_bytes"].as_u64().expect("bytes");
    let before = size(&home.json("pool show tank"));
    let two = home.text("two");
    assert!(home.error(&format!("pool grow tank {two}")).contains("does not exist"));
    let grown = home.json(&format!("pool grow tank {two} --size 64MiB"));
    assert_eq!(grown["members"].as_array().map(Vec::len), Some(2));
    assert!(size(&grown) > before + 32 * MIB, "{} to {}", before, size(&grown));
    let file = fs::File::options().write(true).open(home.path("two")).expect("it is there");
    file.set_len(128 * MIB).expect("there is space");
    let larger = home.json("pool grow tank");
    assert!(size(&larger) > size(&grown) + 32 * MIB);
    assert_eq!(larger["members"][1]["size_bytes"], 128 * MIB);
    assert_eq!(home.json("pool rejoin tank"), larger, "no copy is stale");
    daemon.kill();
    let _daemon = home.start(&[]);
    assert_eq!(home.json("pool show tank")["members"], larger["members"]);
    fs::write(home.path("foreign"), vec![7; 64 << 20]).expect("it can be written");
    let foreign = home.text("foreign");
    assert!(home.error(&format!("pool grow tank {foreign}")).contains("force would destroy it"));
    home.ok(&format!("pool grow tank {foreign} --force"));
}

#[test]
fn a_pool_is_checked_without_a_daemon_and_damage_is_told_with_its_place() {
    let home = Home::new("offline");
    let daemon = home.start(&["--pool", "tank=disk,size=64MiB"]);
    home.ok("volume create v --size 8MiB");
    let disk = home.text("disk");
    assert!(home.error(&format!("pool check {disk}")).contains(&disk), "it is in use");
    daemon.kill();
    let report = home.json(&format!("pool check {disk}"));
    assert_eq!((&report["pool"], &report["volumes"]), (&"tank".into(), &1.into()));
    assert_ne!(report["severity"], "damage");
    let mut bytes = fs::read(home.path("disk")).expect("it is there");
    bytes[..32 << 20].iter_mut().skip(4096).step_by(512).for_each(|byte| *byte ^= 1);
    fs::write(home.path("disk"), bytes).expect("it can be written");
    let output = home.run(&format!("pool check {disk}"));
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("damage") && said.contains("byte"), "{said}");
}

#[test]
fn a_load_goes_through_the_whole_node_and_leaves_no_trace() {
    let home = Home::new("bench");
    let _daemon = home.start(&["--pool", "tank=disk,size=128MiB"]);
    let load = "bench --rw randrw --qd 8 --time 1";
    assert!(home.error("bench --volume v --rw randwrite").contains("--scratch"));
    assert!(home.error(&format!("{load} --volume v --overwrite")).contains("no volume \"v\""));
    let report = home.json(&format!("{load} --scratch --size 32MiB --hdgst --ddgst"));
    for direction in ["read", "write"] {
        assert!(report[direction]["requests"].as_u64() > Some(0), "{report}");
        assert!(report[direction]["latency_ns"]["p99"].as_u64() > Some(0), "{report}");
    }
    assert!(home.volumes().is_empty(), "the scratch volume is gone");
    home.ok("volume create v --size 32MiB");
    home.ok("volume export v --host nqn.2026-01.x:other");
    let before = home.json("volume show v");
    home.ok("bench --volume v --rw read --bs 64k --time 1");
    assert_eq!(before, home.json("volume show v"), "it is exported as before");
    let table = home.ok("bench --volume v --rw write --overwrite --time 1 --jobs 2 --loops 2");
    assert!(
        table.starts_with(" ") && table.contains("write") && table.contains("p99 us"),
        "{table}"
    );
    let ranges = home.json("snapshot diff v");
    assert!(!ranges.as_array().expect("a list").is_empty(), "it was written");
}

#[test]
fn what_a_host_uses_is_not_taken_away_unless_the_host_is_cut_off() {
    let home = Home::new("in-use");
    let _daemon = home.start(&["--pool", "tank=disk,size=128MiB"]);
    home.ok("volume create v --size 32MiB");
    home.ok("snapshot create v@s");
    let mut load = home.begin("bench --volume v --rw randread --qd 2 --time 60");
    load.wait_for_connections(&home, 2);
    for command in [
        "volume delete v",
        "snapshot rollback v@s",
        "pool release tank",
        "pool destroy tank --force",
    ] {
        let said = home.error(command);
        assert!(said.contains("is connected"), "{command}: {said}");
    }
    assert_eq!(home.volumes(), ["v"]);
    assert_eq!(home.json("volume resize v --size 48MiB")["size_bytes"], 48 * MIB);
    home.ok("volume unexport v");
    assert!(!load.end().success(), "the load has lost its volume");
    home.ok("snapshot rollback v@s");
    home.ok("volume delete v");
}

#[test]
fn a_pool_is_found_by_its_label_and_never_made_anew_under_a_name_that_is_known() {
    let home = Home::new("known");
    let daemon = home.start(&["--pool", "tank=disk,size=64MiB"]);
    home.ok("volume create v --size 8MiB");
    drop(daemon);
    fs::rename(home.path("disk"), home.path("away")).expect("it is there");
    // The place where it was is empty now, as when a file system is not mounted.
    let daemon = home.start(&["--pool", "tank=disk,size=64MiB"]);
    assert!(!home.path("disk").exists(), "no new pool takes the name of the one that is known");
    let other = home.text("other");
    let said = home.error(&format!("pool create tank {other} --size 64MiB"));
    assert!(said.contains("is remembered") && !home.path("other").exists(), "{said}");
    // What is gone for now is not gone.
    assert!(home.error("volume delete v --if-exists").contains("not open: pool tank"));
    // Another pool stands where it was.
    home.ok(&format!("pool create else {} --size 64MiB", home.text("disk")));
    home.ok("pool release else");
    let said = home.error("pool destroy tank --force");
    assert!(said.contains("is no member of it"), "{said}");
    assert_eq!(names(&home.json(&format!("pool import {}", home.text("disk")))), ["else"]);
    // It comes back from wherever it is.
    assert_eq!(names(&home.json(&format!("pool import {}", home.text("away")))), ["tank"]);
    assert_eq!(home.volumes(), ["v"]);
    drop(daemon);
    let _daemon = home.start(&[]);
    assert_eq!(home.volumes(), ["v"]);
    let uuid = home.json("pool show else")["uuid"].as_str().expect("a UUID").to_owned();
    home.ok(&format!("pool destroy {uuid}"));
    assert!(!home.path("state/pools/else").exists(), "it is forgotten by its name");
}

#[test]
fn a_call_that_waits_does_not_keep_the_daemon_from_ending() {
    let home = Home::new("stopping");
    let daemon = home.start(&["--pool", "tank=memory,size=64MiB"]);
    // One that connects and never speaks.
    let silent = std::os::unix::net::UnixStream::connect(home.path("api")).expect("it listens");
    assert!(daemon.terminate().success());
    drop(silent);
}

#[test]
fn with_an_empty_state_directory_everything_comes_back_from_the_disks() {
    let home = Home::new("disks-alone");
    let daemon = home.start(&["--pool", "tank=disk,size=64MiB"]);
    home.ok("volume create v --size 8MiB");
    home.ok("volume export v --host nqn.2026-01.x:h");
    home.ok("snapshot create v@s");
    let before = (home.json("volume list"), home.json("snapshot list"));
    daemon.kill();
    fs::remove_dir_all(home.path("state")).expect("it is there");
    let _daemon = home.start(&[]);
    assert!(home.volumes().is_empty());
    home.ok(&format!("pool import {}", home.text("disk")));
    assert_eq!(before, (home.json("volume list"), home.json("snapshot list")));
}

#[test]
fn a_pool_that_cannot_be_opened_keeps_no_other_from_being_served() {
    let home = Home::new("refused");
    let daemon = home.start(&["--pool", "a=one,size=64MiB", "--pool", "b=two,size=64MiB"]);
    home.ok("volume create v --pool a --size 8MiB");
    home.ok("volume create w --pool b --size 8MiB");
    drop(daemon);
    fs::rename(home.path("one"), home.path("away")).expect("it is there");
    let daemon = home.start(&[]);
    assert_eq!(home.volumes(), ["w"]);
    let closed = &home.json("node show")["closed_pools"][0];
    assert_eq!(closed["name"], "a");
    assert!(home.error("pool show a").contains("it is not open"));
    assert!(home.error("volume show v").contains("not open: pool a"));
    drop(daemon);
    fs::rename(home.path("away"), home.path("one")).expect("it is there");
    let _daemon = home.start(&[]);
    assert_eq!(home.volumes(), ["v", "w"]);
}

#[test]
fn what_is_not_blank_is_never_taken_unless_forced() {
    let home = Home::new("foreign");
    let mut foreign = vec![0; 64 << 20];
    foreign[1080..1082].copy_from_slice(&[0x53, 0xEF]);
    fs::write(home.path("disk"), &foreign).expect("it can be written");
    let _daemon = home.start(&["--pool", "tank=disk"]);
    assert!(home.json("pool list").as_array().expect("a list").is_empty());
    let disk = home.text("disk");
    let said = home.error(&format!("pool create tank {disk}"));
    assert!(said.contains("ext"), "it says what is there: {said}");
    assert!(fs::read(home.path("disk")).expect("it is there") == foreign, "nothing was written");
    home.ok(&format!("pool create tank {disk} --force"));
}

#[test]
fn two_daemons_share_neither_state_nor_socket_nor_pool() {
    let home = Home::new("twice");
    let _daemon = home.start(&["--pool", "tank=disk,size=64MiB"]);
    assert!(home.refused(&["--api", "other"]).contains("another daemon uses it"));
    let mode = fs::metadata(home.path("api")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::write(home.path("file"), "x").expect("it can be written");
    let elsewhere = Home::new("twice-2");
    let second = elsewhere.start(&["--pool", &format!("tank={}", home.text("disk"))]);
    let closed = elsewhere.json("node show")["closed_pools"][0]["reason"].clone();
    assert!(closed.as_str().is_some_and(|reason| reason.contains("in use")), "{closed}");
    drop(second);
    let api = home.text("file");
    assert!(elsewhere.refused(&["--api", &api]).contains("a file that is no socket"));
    let api = home.text("api");
    assert!(elsewhere.refused(&["--api", &api]).contains("another daemon answers there"));
}

#[test]
fn the_configuration_is_checked_without_opening_anything() {
    let home = Home::new("check");
    let check = |file: &str| {
        fs::write(home.path("fathom.toml"), file).expect("it can be written");
        home.run("node --check --config fathom.toml")
    };
    let right = check("[[pool]]\nname = \"tank\"\npaths = [\"disk\"]\nsize = \"64MiB\"\n");
    assert!(right.status.success(), "{}", String::from_utf8_lossy(&right.stderr));
    assert!(String::from_utf8_lossy(&right.stdout).contains("disk will be made"));
    assert!(!home.path("disk").exists() && !home.path("state").exists());
    for (file, said) in [
        ("lisen = []", "line 1"),
        ("[[pool]]\nname = \"tank\"\npaths = [\"disk\"]\n", "no size is given"),
        ("cores = [9999]\n", "core 9999"),
        ("[[pool]]\nname = \"a b\"\nmemory = true\nsize = \"1GiB\"\n", "pool name \"a b\""),
    ] {
        let wrong = check(file);
        let stderr = String::from_utf8_lossy(&wrong.stderr).into_owned();
        assert!(!wrong.status.success() && stderr.contains(said), "{file}: {stderr}");
    }
}

#[test]
fn a_volume_in_use_by_two_pools_names_needs_the_pools_name() {
    let home = Home::new("ambiguous");
    let _daemon = home.start(&["--pool", "a=memory,size=64MiB", "--pool", "b=memory,size=64MiB"]);
    assert!(home.error("volume create v --size 1MiB").contains("name the pool: there are a, b"));
    home.ok("volume create v --pool a --size 1MiB");
    home.ok("volume create v --pool b --size 2MiB");
    assert!(home.error("volume show v").contains("give POOL/NAME"));
    assert_eq!(home.json("volume show b/v")["size_bytes"], 2 * MIB);
    home.ok("snapshot create a/v@s");
    assert_eq!(home.json("snapshot show a/v@s")["pool"], "a");
    assert!(home.error("snapshot create a/v@t b/v@t").contains("only volumes of one pool"));
    assert_eq!(home.json("pool show a")["is_volatile"], true);
}
