//! Names of pools, volumes and snapshots: which may be given, and what is meant by one.
//!
//! ```text
//!   UUID                  anything
//!   NAME                  a pool; a volume of any pool
//!   POOL/NAME             a volume of that pool
//!   [POOL/]NAME@SNAPSHOT  a snapshot
//! ```

use uuid::Uuid;

use super::error::{CallFailed, Kind};

/// The longest name, in bytes.
const NAME_MAX: usize = 63;

/// What a name of a volume means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum VolumeName<'a> {
    /// Its UUID.
    Uuid(Uuid),
    /// Its name, and perhaps its pool's.
    Name {
        /// The pool's name.
        pool: Option<&'a str>,
        /// The volume's name.
        name: &'a str,
    },
}

/// What a name of a snapshot means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SnapshotName<'a> {
    /// Its UUID.
    Uuid(Uuid),
    /// Its volume and its own name.
    Name {
        /// The volume, which is no UUID.
        volume: VolumeName<'a>,
        /// The snapshot's name.
        name: &'a str,
    },
}

/// Whether something new may have this name.
///
/// # Errors
///
/// [`Kind::Invalid`] with what is wrong.
pub(crate) fn check_new(what: &str, name: &str) -> Result<(), CallFailed> {
    let invalid = |reason: &str| {
        Err(CallFailed::new(Kind::Invalid, format_args!("{what} name \"{name}\": {reason}")))
    };
    if name.is_empty() || name.len() > NAME_MAX {
        return invalid("a name has 1 to 63 bytes");
    }
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins_well
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    {
        return invalid(
            "a name has letters, digits, \"-\", \"_\" and \".\", and begins with a letter or digit",
        );
    }
    if Uuid::try_parse(name).is_ok() {
        return invalid("it has the form of a UUID, by which objects are found, too");
    }
    Ok(())
}

/// What is meant by a volume's name.
pub(crate) fn volume(text: &str) -> VolumeName<'_> {
    if let Ok(uuid) = Uuid::try_parse(text) {
        return VolumeName::Uuid(uuid);
    }
    match text.split_once('/') {
        Some((pool, name)) => VolumeName::Name { pool: Some(pool), name },
        None => VolumeName::Name { pool: None, name: text },
    }
}

/// What is meant by a snapshot's name.
///
/// # Errors
///
/// [`Kind::Invalid`] when it is neither `VOLUME@NAME` nor a UUID.
pub(crate) fn snapshot(text: &str) -> Result<SnapshotName<'_>, CallFailed> {
    if let Ok(uuid) = Uuid::try_parse(text) {
        return Ok(SnapshotName::Uuid(uuid));
    }
    match text.split_once('@') {
        Some((volume_text, name)) => Ok(SnapshotName::Name { volume: volume(volume_text), name }),
        None => Err(CallFailed::new(
            Kind::Invalid,
            format_args!("\"{text}\" names no snapshot: give VOLUME@NAME or its UUID"),
        )),
    }
}

/// Whether a name can only be a snapshot's.
pub(crate) fn is_snapshot(text: &str) -> bool {
    text.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

    #[test]
    fn names_of_new_objects_are_plain() {
        for name in ["a", "db-1", "v1.2_x", &"x".repeat(63), "0"] {
            assert_eq!(check_new("volume", name), Ok(()), "{name}");
        }
        let long = "x".repeat(64);
        for name in ["", "-a", ".a", "a/b", "a@b", "a b", "ä", "a\n", UUID, &long] {
            let failed = check_new("volume", name).expect_err(name);
            assert_eq!(failed.kind, Kind::Invalid);
            assert!(failed.message.starts_with("volume name"), "{failed}");
        }
    }

    #[test]
    fn volumes_are_found_by_uuid_name_and_pool() {
        assert_eq!(volume(UUID), VolumeName::Uuid(Uuid::try_parse(UUID).expect("one")));
        assert_eq!(volume("db"), VolumeName::Name { pool: None, name: "db" });
        assert_eq!(volume("tank/db"), VolumeName::Name { pool: Some("tank"), name: "db" });
    }

    #[test]
    fn snapshots_are_found_by_uuid_and_volume() {
        assert!(matches!(snapshot(UUID), Ok(SnapshotName::Uuid(_))));
        let volume = VolumeName::Name { pool: Some("tank"), name: "db" };
        assert_eq!(snapshot("tank/db@s1"), Ok(SnapshotName::Name { volume, name: "s1" }));
        assert_eq!(snapshot("db").expect_err("no @").kind, Kind::Invalid);
    }
}
