//! The house: every crate of the product, what it may do, and which crates it may use.
//!
//! This is the table of `docs/ARCHITECTURE.md` in a form that can be checked. Rows stand in the
//! order in which they build on each other: a row uses only rows above it.

/// One crate of the product.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// The package's name without its `fathom-`.
    pub name: &'static str,
    /// The package's folder.
    pub folder: &'static str,
    /// What its code may do beyond computing.
    pub reach: Reach,
    /// The crates of the product that it may use, by [`Room::name`].
    pub uses: &'static [&'static str],
}

/// What the code of a crate may do beyond computing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nothing: bytes, events and `now` are arguments, and what is to be done is returned.
    Pure,
    /// Sockets, files, clocks, randomness and `.await`.
    Effects,
    /// As [`Reach::Effects`], and `unsafe` to speak with the kernel.
    Kernel,
}

/// The whole product.
#[rustfmt::skip]
pub const HOUSE: &[Room] = &[
    node("units",     "node/units",     Reach::Pure,    &[]),
    node("nvme",      "node/nvme",      Reach::Pure,    &["units"]),
    node("block",     "node/block",     Reach::Pure,    &["units"]),
    node("target",    "node/target",    Reach::Pure,    &["units", "nvme", "block"]),
    node("host",      "node/host",      Reach::Pure,    &["units", "nvme", "block"]),
    node("lvs",       "node/lvs",       Reach::Pure,    &["units", "block"]),
    node("replica",   "node/replica",   Reach::Pure,    &["units", "block"]),
    node("runtime",   "node/runtime",   Reach::Kernel,  &["units", "block"]),
    node("engine",    "node/engine",    Reach::Effects, &["units", "nvme", "block", "target", "host", "lvs", "runtime"]),
    node("bench",     "node/bench",     Reach::Effects, &["units", "nvme", "block", "host", "runtime", "engine"]),
    node("attach",    "node/attach",    Reach::Kernel,  &["units", "block", "runtime"]),
    node("api",       "node/api",       Reach::Effects, &["units"]),
    node("appliance", "node/appliance", Reach::Effects, &[
        "units", "nvme", "block", "target", "host", "lvs", "replica", "runtime", "engine",
        "bench", "attach", "api",
    ]),
];

/// The room of the package called `package` (`fathom-lvs`), if it has one.
pub fn room_of(package: &str) -> Option<&'static Room> {
    let name = package.strip_prefix("fathom-")?;
    HOUSE.iter().find(|room| room.name == name)
}

const fn node(
    name: &'static str,
    folder: &'static str,
    reach: Reach,
    uses: &'static [&'static str],
) -> Room {
    Room { name, folder, reach, uses }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_room_uses_only_rooms_above_it() {
        for (position, room) in HOUSE.iter().enumerate() {
            for used in room.uses {
                let above = HOUSE[..position].iter().any(|other| other.name == *used);
                assert!(above, "{} uses {used}, which does not stand above it", room.name);
            }
        }
    }

    #[test]
    fn pure_rooms_use_only_pure_rooms() {
        for room in HOUSE.iter().filter(|room| room.reach == Reach::Pure) {
            for used in room.uses {
                let used = HOUSE.iter().find(|other| other.name == *used);
                assert_eq!(used.expect("checked above").reach, Reach::Pure, "{}", room.name);
            }
        }
    }

    #[test]
    fn a_package_finds_its_room_by_name() {
        assert_eq!(room_of("fathom-lvs").expect("lvs is in the house").folder, "node/lvs");
        assert!(room_of("lvs").is_none());
        assert!(room_of("fathom-attic").is_none());
    }
}
