//! What the daemon shall do: the configuration file, and the flags over it.
//!
//! ```text
//!   TOML --> Raw (no unknown key) --+
//!                                   +--> Config: checked, nothing missing
//!   flags ---> Flags ---------------+
//! ```
//!
//! A flag replaces what the file says under that name; `--pool` adds to the pools of the file.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use thiserror::Error;

use super::names;
use crate::{paths, size};

/// Where hosts connect when nothing else is said.
const LISTEN: &str = "127.0.0.1:4420";
/// The most addresses to listen on.
const LISTEN_MAX: usize = 16;

/// What the command line says.
#[derive(Clone, Default, Debug, clap::Args)]
pub(crate) struct Flags {
    /// Read this configuration file (TOML); flags go before it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Open a pool, or create it in a file that does not exist: NAME=PATH[,PATH...][,size=SIZE] or
    /// NAME=memory,size=SIZE (gone when the daemon ends); repeatable
    #[arg(long, value_name = "NAME=PATH[,size=SIZE]", value_parser = PoolFlag::parse)]
    pub(crate) pool: Vec<PoolFlag>,
    /// Listen for NVMe/TCP hosts here; repeatable [default: 127.0.0.1:4420]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Vec<SocketAddr>,
    /// Tell this address to hosts that discover, not the one that they reached
    #[arg(long, value_name = "ADDR")]
    pub(crate) advertise: Option<IpAddr>,
    /// Run an event loop on each of these cores, such as 0,2-3 [default: one loop, on any]
    #[arg(long, value_name = "LIST", value_parser = parse_cores)]
    pub(crate) cores: Option<Cores>,
    /// Keep the list of pools here [default: /var/lib/fathom, or in the user's state directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Open pools also when members are missing
    #[arg(long)]
    pub(crate) degraded: bool,
}

/// The cores of the event loops.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cores(pub(crate) Vec<usize>);

/// `--pool`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PoolFlag(PoolSpec);

/// The configuration file.
#[derive(Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    listen: Option<Vec<SocketAddr>>,
    advertise: Option<IpAddr>,
    api: Option<PathBuf>,
    cores: Option<Vec<usize>>,
    state: Option<PathBuf>,
    degraded: Option<bool>,
    #[serde(default)]
    pool: Vec<RawPool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPool {
    name: String,
    #[serde(default)]
    paths: Vec<PathBuf>,
    #[serde(default)]
    memory: bool,
    size: Option<String>,
}

/// What the daemon shall do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Config {
    /// Where hosts connect, at least one address.
    pub(crate) listen: Vec<SocketAddr>,
    /// What hosts that discover are told instead of the address that they reached.
    pub(crate) advertise: Option<IpAddr>,
    /// The API's socket.
    pub(crate) api: PathBuf,
    /// A loop on each of these; none: one loop, on any core.
    pub(crate) cores: Vec<usize>,
    /// The state directory.
    pub(crate) state: PathBuf,
    /// Pools open also without some of their members.
    pub(crate) degraded: bool,
    /// Pools to open, beside those that are recorded.
    pub(crate) pools: Vec<PoolSpec>,
}

/// A pool to open or create.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PoolSpec {
    /// Its name.
    pub(crate) name: String,
    /// What it lives on.
    pub(crate) backing: Backing,
}

/// What a pool lives on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Backing {
    /// Its members: at least one.
    Paths {
        /// Where they are.
        paths: Vec<PathBuf>,
        /// The size of the files that do not exist yet, in bytes.
        size: Option<u64>,
    },
    /// So many bytes of memory, gone when the daemon ends.
    Memory(u64),
}

/// The configuration cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// The file is no TOML, or says something that is not known; the message has the line.
    #[error("configuration file {0}: {1}")]
    Parse(PathBuf, toml::de::Error),
    /// A value cannot be.
    #[error("{0}")]
    Value(String),
}

impl PoolFlag {
    fn parse(text: &str) -> Result<Self, String> {
        let form = "a pool is given as NAME=PATH[,size=SIZE] or NAME=memory,size=SIZE";
        let (name, rest) = text.split_once('=').ok_or(form)?;
        let mut raw =
            RawPool { name: name.to_owned(), paths: Vec::new(), memory: false, size: None };
        for part in rest.split(',') {
            match part.strip_prefix("size=") {
                Some(size) if raw.size.is_none() => raw.size = Some(size.to_owned()),
                Some(_) => return Err(format!("pool \"{name}\" has two sizes")),
                None if part.is_empty() => return Err(form.to_owned()),
                None if part == "memory" => raw.memory = true,
                None => raw.paths.push(part.into()),
            }
        }
        PoolSpec::check(raw).map(Self)
    }
}

impl PoolSpec {
    fn check(raw: RawPool) -> Result<Self, String> {
        let RawPool { name, paths, memory, size } = raw;
        names::check_new("pool", &name).map_err(|failed| failed.message)?;
        // They are remembered, and the next start may be in another directory.
        let paths = paths.iter().map(std::path::absolute).collect::<Result<Vec<_>, _>>();
        let paths = paths.map_err(|error| format!("pool \"{name}\": {error}"))?;
        let size = size.map(|size| size::parse(&size)).transpose();
        let size = size.map_err(|error| format!("pool \"{name}\": {error}"))?;
        let backing = match (memory, size) {
            (true, Some(size)) if paths.is_empty() => Backing::Memory(size),
            (true, None) if paths.is_empty() => {
                return Err(format!("pool \"{name}\": a pool in memory needs its size"));
            }
            (true, _) => {
                return Err(format!("pool \"{name}\" is in memory or has paths, not both"));
            }
            (false, _) if paths.is_empty() => {
                return Err(format!("pool \"{name}\" has no path; \"memory\" is one without"));
            }
            (false, size) => Backing::Paths { paths, size },
        };
        Ok(Self { name, backing })
    }
}

/// Reads `0,2-3`.
fn parse_cores(text: &str) -> Result<Cores, String> {
    let wrong = || format!("\"{text}\" is no list of cores; give it as 0,2-3");
    let number = |text: &str| text.parse::<u16>().map(usize::from).map_err(|_| wrong());
    let mut cores = BTreeSet::new();
    for part in text.split(',') {
        match part.split_once('-') {
            Some((first, last)) => cores.extend(number(first)?..=number(last)?),
            None => drop(cores.insert(number(part)?)),
        }
    }
    if cores.is_empty() {
        return Err(wrong());
    }
    Ok(Cores(cores.into_iter().collect()))
}

impl Config {
    /// What the file of the flags, if there is one, and the flags say together.
    ///
    /// # Errors
    ///
    /// What is wrong, with the line when it is in the file.
    pub(crate) fn new(flags: Flags, api: Option<PathBuf>) -> Result<Self, ConfigError> {
        let raw = match &flags.config {
            None => Raw::default(),
            Some(path) => {
                let text = fs::read_to_string(path);
                let text = text.map_err(|error| ConfigError::Read(path.clone(), error))?;
                parse(path, &text)?
            }
        };
        Self::merge(flags, api, raw).map_err(ConfigError::Value)
    }

    fn merge(flags: Flags, api: Option<PathBuf>, raw: Raw) -> Result<Self, String> {
        let default = || vec![LISTEN.parse().expect("it is an address")];
        let listen = match flags.listen.is_empty() {
            false => flags.listen,
            true => raw.listen.unwrap_or_else(default),
        };
        if listen.is_empty() || listen.len() > LISTEN_MAX {
            return Err(format!("listen: 1 to {LISTEN_MAX} addresses, not {}", listen.len()));
        }
        let from_file = raw.pool.into_iter().map(PoolSpec::check);
        let from_flags = flags.pool.into_iter().map(|PoolFlag(spec)| Ok(spec));
        let pools: Vec<PoolSpec> = from_file.chain(from_flags).collect::<Result<_, _>>()?;
        let mut seen = BTreeSet::new();
        if let Some(twice) = pools.iter().find(|pool| !seen.insert(&pool.name)) {
            return Err(format!("pool \"{}\" is given twice", twice.name));
        }
        let cores = flags.cores.map(|Cores(cores)| cores).or(raw.cores).unwrap_or_default();
        if cores.len() > fathom_runtime::LOOPS_MAX {
            let most = fathom_runtime::LOOPS_MAX;
            return Err(format!("cores: {} of them, and {most} is the most", cores.len()));
        }
        Ok(Self {
            listen,
            advertise: flags.advertise.or(raw.advertise),
            api: api.or(raw.api).unwrap_or_else(paths::api),
            cores,
            state: flags.state.or(raw.state).unwrap_or_else(paths::state),
            degraded: flags.degraded || raw.degraded.unwrap_or(false),
            pools,
        })
    }
}

fn parse(path: &Path, text: &str) -> Result<Raw, ConfigError> {
    toml::from_str(text).map_err(|error| ConfigError::Parse(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(flags: Flags, file: &str) -> Result<Config, String> {
        let raw = parse(Path::new("fathom.toml"), file).map_err(|error| error.to_string())?;
        Config::merge(flags, None, raw)
    }

    fn pool(text: &str) -> Result<PoolSpec, String> {
        PoolFlag::parse(text).map(|PoolFlag(spec)| spec)
    }

    #[test]
    fn flags_replace_the_file_and_add_pools() {
        let file = r#"
            listen = ["192.0.2.1:4420"]
            state = "/s"
            cores = [1]
            [[pool]]
            name = "a"
            paths = ["/dev/sdb", "/dev/sdc"]
        "#;
        let flags = Flags {
            listen: vec!["192.0.2.9:1".parse().expect("an address")],
            pool: vec![PoolFlag::parse("b=memory,size=1GiB").expect("a pool")],
            ..Flags::default()
        };
        let config = merged(flags, file).expect("it is right");
        assert_eq!(config.listen, ["192.0.2.9:1".parse().expect("an address")]);
        assert_eq!((config.state, config.cores), ("/s".into(), vec![1]));
        let paths = vec!["/dev/sdb".into(), "/dev/sdc".into()];
        assert_eq!(config.pools[0].backing, Backing::Paths { paths, size: None });
        assert_eq!(config.pools[1].backing, Backing::Memory(1 << 30));
    }

    #[test]
    fn what_is_wrong_in_the_file_is_told_with_its_line() {
        let unknown = merged(Flags::default(), "listen = []\nlissten = 1\n").expect_err("unknown");
        assert!(unknown.contains("line 2") && unknown.contains("lissten"), "{unknown}");
        let address = merged(Flags::default(), "\n\nlisten = [\"nowhere\"]").expect_err("wrong");
        assert!(address.contains("line 3"), "{address}");
        let none = merged(Flags::default(), "listen = []").expect_err("none");
        assert!(none.starts_with("listen"), "{none}");
        let twice = "[[pool]]\nname=\"a\"\nmemory=true\nsize=\"1GiB\"\n".repeat(2);
        let twice = merged(Flags::default(), &twice).expect_err("twice");
        assert_eq!(twice, "pool \"a\" is given twice");
    }

    #[test]
    fn pools_are_given_by_path_or_in_memory() {
        let paths = |paths: &[&str], size| Backing::Paths {
            paths: paths.iter().map(PathBuf::from).collect(),
            size,
        };
        assert_eq!(pool("t=/dev/sdb").map(|p| p.backing), Ok(paths(&["/dev/sdb"], None)));
        let two = pool("t=/a,/b,size=2MiB").map(|p| p.backing);
        assert_eq!(two, Ok(paths(&["/a", "/b"], Some(2 << 20))));
        for wrong in [
            "t",
            "t=",
            "=/a",
            "t=/a,size=x",
            "t=/a,size=1,size=2",
            "t=memory",
            "t=memory,/a,size=1",
        ] {
            pool(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn cores_are_numbers_and_ranges() {
        assert_eq!(parse_cores("3,0-1,1"), Ok(Cores(vec![0, 1, 3])));
        for wrong in ["", "a", "1-", "3-1", "70000"] {
            parse_cores(wrong).expect_err(wrong);
        }
    }
}
