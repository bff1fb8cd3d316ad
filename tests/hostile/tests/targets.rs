//! The fuzz targets on the stable toolchain: they take their own seeds and simple changes of them,
//! and each has its executable in `tests/fuzz`.

use std::{fs, path::Path};

use fathom_test_hostile::targets::TARGETS;
use fathom_test_support::random::Random;

const CHANGES: u32 = 20;

#[test]
fn every_target_takes_its_seeds_and_changes_of_them() {
    let mut random = Random::new(1);
    for target in TARGETS {
        let seeds = target.seeds();
        assert!(!seeds.is_empty(), "{} has seeds", target.name);
        for seed in &seeds {
            target.run(seed);
        }
        for _ in 0..CHANGES {
            let mut bytes = random.pick(&seeds).clone();
            for _ in 0..1 + random.below(4) {
                let at = usize::try_from(random.below(bytes.len() as u64)).expect("short");
                bytes[at] = *random.pick(&[0, 1, 0x7F, 0x80, 0xFF]);
            }
            target.run(&bytes);
        }
    }
}

#[test]
fn every_target_has_its_executable_and_no_other_is_there() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("the fuzz workspace");
    let mut files: Vec<String> = fs::read_dir(folder.join("targets"))
        .expect("the folder of the executables")
        .map(|file| file.expect("readable").file_name().into_string().expect("UTF-8"))
        .collect();
    files.sort_unstable();
    let mut expected: Vec<String> =
        TARGETS.iter().map(|target| format!("{}.rs", target.name)).collect();
    expected.sort_unstable();
    assert_eq!(files, expected);
    for target in TARGETS {
        let path = format!("path = \"targets/{}.rs\"", target.name);
        assert!(manifest.contains(&path), "{} is in the manifest", target.name);
        let source = fs::read_to_string(folder.join(format!("targets/{}.rs", target.name)));
        let call = format!("target(\"{}\").run(bytes)", target.name);
        assert!(source.expect("just listed").contains(&call), "{} runs itself", target.name);
    }
}
