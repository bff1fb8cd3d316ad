//! Checking a pool that nobody uses: what is said of which damage, with its place, and that nothing is
//! written.

use fathom_lvs::{
    DestroyOptions, Finding, Medium, OpenError, OpenOptions, Report, Severity, destroy,
    format::label::{Label, label_offsets},
    verify,
};
use fathom_test_sim::{
    pool::{METADATA, SLOT_BYTES, Shape, Story, new_snapshot, new_volume},
    rig::{Disks, Rig},
};
use fathom_test_support::random::Random;

const LOG_BYTES: u64 = 128 << 10;
const LOG: u64 = METADATA + 2 * SLOT_BYTES;
const WHOLE: OpenOptions = OpenOptions::WHOLE;
const DEGRADED: OpenOptions = OpenOptions::DEGRADED;

/// The disks of a pool with a volume, a snapshot and some log.
fn disks(members: u64) -> Disks {
    let mut story = Story::new(5, Shape { members, log_bytes: LOG_BYTES, clusters: 32 });
    let volume = story.create_volume(new_volume(0x100, 1 << 20, 4096));
    story.write(volume, 0, 40, 7).expect("healthy disks");
    story.rig.store.create_snapshots(vec![new_snapshot(volume, 5)]).expect("it can be made");
    story.done().expect("healthy disks");
    story.write(volume, 3, 1, 8).expect("healthy disks");
    story.flush(volume).expect("healthy disks");
    story.rig.disks
}

/// Checks, and that nothing was written by it.
fn checked(disks: &mut Disks, options: OpenOptions) -> Report {
    let writes = |disks: &Disks| -> Vec<_> {
        let counters = disks.0.iter().map(|disk| disk.counters());
        counters.map(|counters| (counters.writes, counters.flushes, counters.discards)).collect()
    };
    let before = writes(disks);
    let report = verify(disks, options);
    assert_eq!(writes(disks), before, "checking writes nothing");
    report
}

fn found(report: &Report, severity: Severity) -> Vec<&Finding> {
    report.findings.iter().filter(|finding| finding.severity == severity).collect()
}

fn opens(disks: &Disks, options: OpenOptions) -> bool {
    Rig::open(disks.clone(), options).is_ok()
}

#[test]
fn a_sound_pool_has_nothing_wrong_and_its_content_is_told() {
    for members in 1..4 {
        let mut disks = disks(members);
        let report = checked(&mut disks, WHOLE);
        assert_eq!(report.findings, [], "{members} members");
        let content = report.checked.expect("it was read to the end");
        assert_eq!((content.volumes, content.snapshots), (1, 1));
        assert_eq!((content.name.as_str(), content.allocated_clusters), ("pool", 4));
        assert!(content.entries > 0, "there is a log");
    }
}

#[test]
fn what_one_copy_lacks_is_a_warning_with_its_place() {
    let sound = disks(2);
    let end = sound.size(1);
    for (name, at) in [
        ("label copy 0", 0),
        ("label copy 1", METADATA / 2),
        ("label copy 2", end - 4096),
        ("checkpoint slot A", METADATA),
        ("checkpoint slot B", METADATA + SLOT_BYTES),
        ("checkpoint", METADATA + 4096),
        ("log entry", LOG),
    ] {
        let mut disks = sound.clone();
        disks.0[1].flip_bit(at + 50, 3);
        let report = checked(&mut disks, WHOLE);
        let warnings = found(&report, Severity::Warning);
        assert_eq!(report.findings.len(), warnings.len(), "{name}: {report:?}");
        let [Finding { slot, offset, detail, .. }] = warnings[..] else {
            panic!("{name}: {report:?}")
        };
        assert_eq!((*slot, *offset), (Some(1), Some(at)), "{name}: {detail}");
        assert!(detail.contains(name), "{detail}");
        assert!(opens(&disks, WHOLE));
    }
}

#[test]
fn what_no_copy_has_is_damage_with_its_place_and_the_pool_is_refused() {
    let sound = disks(1);
    // The slot from which the pool opens, and the one before it.
    for slot in [0, 1] {
        let mut disks = sound.clone();
        let at = METADATA + slot * SLOT_BYTES + 4096;
        disks.0[0].flip_bit(at + 70, 0);
        let report = checked(&mut disks, WHOLE);
        let damage = found(&report, Severity::Damage);
        assert_eq!(damage.is_empty(), opens(&disks, WHOLE), "{report:?}");
        assert!(report.findings.iter().all(|finding| finding.offset == Some(at)), "{report:?}");
        assert!(!report.findings.is_empty());
    }
    let mut disks = sound.clone();
    disks.0[0].flip_bit(LOG + 70, 0);
    let report = checked(&mut disks, WHOLE);
    assert!(!opens(&disks, WHOLE));
    let damage = found(&report, Severity::Damage);
    assert!(damage[0].offset == Some(LOG) && damage[0].detail.contains("log entry"), "{report:?}");
    let mut disks = sound.clone();
    for slot in [0, 1] {
        disks.0[0].flip_bit(METADATA + slot * SLOT_BYTES + 70, 0);
    }
    let report = checked(&mut disks, WHOLE);
    assert_eq!(found(&report, Severity::Damage).len(), 1, "{report:?}");
    assert_eq!(found(&report, Severity::Warning).len(), 2, "each header by itself: {report:?}");
    let mut disks = sound;
    disks.0[0].fail_reads(METADATA + 4096..METADATA + SLOT_BYTES);
    let report = checked(&mut disks, WHOLE);
    assert!(!report.findings.is_empty(), "what cannot be read is told");
}

#[test]
fn several_things_that_are_wrong_are_all_told() {
    let mut disks = disks(2);
    let mut random = Random::new(3);
    let end = disks.size(0);
    disks.0[0].corrupt(0..4096, &mut random);
    disks.0[0].corrupt(LOG..LOG + 4096, &mut random);
    disks.0[1].corrupt(end - 4096..end, &mut random);
    disks.0[1].corrupt(METADATA..METADATA + 4096, &mut random);
    let report = checked(&mut disks, WHOLE);
    let mut places: Vec<_> =
        report.findings.iter().map(|finding| (finding.slot, finding.offset)).collect();
    places.sort_unstable();
    let expected = [(0, 0), (0, LOG), (1, METADATA), (1, end - 4096)];
    assert_eq!(places, expected.map(|(slot, offset)| (Some(slot), Some(offset))), "{report:?}");
}

#[test]
fn missing_members_are_damage_unless_going_on_without_is_asked_for() {
    let mut disks = disks(3);
    disks.0.remove(1);
    let report = checked(&mut disks, WHOLE);
    assert_eq!(report.severity(), Some(Severity::Damage));
    assert!(report.findings[0].detail.contains("member 1"), "{report:?}");
    let report = checked(&mut disks, DEGRADED);
    assert_eq!(report.severity(), Some(Severity::Warning));
    assert!(report.findings[0].detail.contains("member 1"), "{report:?}");
    assert!(report.checked.is_some(), "all else was read");
}

#[test]
fn stale_copies_are_told() {
    let mut disks = disks(2);
    let taken = disks.0.pop().expect("two disks");
    let mut disks = Story::open(disks, 1, DEGRADED).rig.disks;
    disks.0.push(taken);
    let report = checked(&mut disks, WHOLE);
    assert_eq!(report.severity(), Some(Severity::Damage), "opening refuses it: {report:?}");
    let report = checked(&mut disks, DEGRADED);
    let stale = report.findings.iter().find(|finding| finding.detail.contains("missed a write"));
    assert_eq!(stale.and_then(|stale| stale.slot), Some(1), "{report:?}");
}

#[test]
fn blocks_that_a_power_cut_took_are_told_before_they_are_taken_back() {
    let mut story = Story::new(5, Shape { members: 1, log_bytes: LOG_BYTES, clusters: 32 });
    let volume = story.create_volume(new_volume(0x100, 1 << 20, 4096));
    // The entry gets to the disk, the data does not.
    let write = fathom_block::Operation::Write { fua: false };
    story.rig.submit(volume, write, 0, 1, vec![0xA1; 4096]);
    story.rig.pump();
    assert!(story.rig.run_one(|io| io.offset.0 < LOG + LOG_BYTES), "the entry");
    let mut disks = story.rig.disks;
    let report = checked(&mut disks, WHOLE);
    assert_eq!(report.severity(), Some(Severity::Note), "{report:?}");
    assert!(report.findings[0].detail.contains("1 blocks"), "{report:?}");
    assert_eq!(report.checked.map(|checked| checked.taken_back), Some(1));
}

/// Changes every label copy, with right checksums.
fn relabel(disks: &mut Disks, change: impl Fn(&mut Label)) {
    for slot in 0..disks.0.len() {
        let mut bytes = vec![0; 4096];
        disks.read(slot, 0, &mut bytes).expect("a healthy disk");
        let mut label = Label::decode(&bytes).expect("a label");
        change(&mut label);
        for offset in label_offsets(label.member_size) {
            disks.write(slot, offset, &label.encode()).expect("a healthy disk");
        }
    }
}

#[test]
fn a_pool_with_a_feature_for_reading_only_is_checked_and_not_opened() {
    let mut disks = disks(2);
    relabel(&mut disks, |label| label.features.read_only_compatible = 1 << 5);
    let report = checked(&mut disks, WHOLE);
    assert_eq!(report.severity(), Some(Severity::Note), "{report:?}");
    assert!(report.findings[0].detail.contains("read-only-compatible feature 5"), "{report:?}");
    assert!(report.checked.is_some());
    let refused = Rig::open(disks.clone(), WHOLE).map(drop).expect_err("it cannot be written");
    assert!(matches!(refused.0, OpenError::Feature { bit: 5, .. }), "{}", refused.0);
    relabel(&mut disks, |label| label.features.incompatible = 1 << 7);
    let report = checked(&mut disks, WHOLE);
    assert_eq!(report.severity(), Some(Severity::Damage));
    assert!(report.findings[0].detail.contains("incompatible feature 7"), "{report:?}");
    assert_eq!(report.checked, None);
}

#[test]
fn a_pool_that_is_being_destroyed_is_told_as_such() {
    let mut disks = disks(2);
    disks.0[1].die_after(0);
    destroy(&mut disks, DestroyOptions { force: true }).expect_err("a member died");
    disks.0[1].revive();
    let report = checked(&mut disks, DEGRADED);
    assert_eq!(report.severity(), Some(Severity::Damage));
    assert!(report.findings[0].detail.contains("being destroyed"), "{report:?}");
}
