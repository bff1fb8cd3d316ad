//! Generates the messages, clients and servers from `proto/`, without any program to install.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message as _;

const FILES: &[&str] = &[
    "fathom/node/v1/node.proto",
    "fathom/node/v1/pool.proto",
    "fathom/node/v1/volume.proto",
    "fathom/node/v1/snapshot.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Answers are shown as JSON and YAML with the names that they have here.
    tonic_prost_build::configure()
        .btree_map(".")
        .type_attribute(".", "#[derive(serde::Serialize)]")
        .field_attribute("Pool.health", "#[serde(serialize_with = \"crate::name_of_health\")]")
        .compile_fds(descriptors)?;
    Ok(())
}
