//! The command line: every command, flag and help text.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{daemon::config::Flags, size};

/// Block storage for one node: pools on disks or files, thin volumes with snapshots and clones,
/// served over NVMe/TCP.
#[derive(Debug, Parser)]
#[command(name = "fathom", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// The daemon's API socket [default: /run/fathom/fathom.sock, or in the user's runtime directory]
    #[arg(long, global = true, env = "FATHOM_API", value_name = "SOCKET")]
    pub(crate) api: Option<PathBuf>,
    /// How answers are shown
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub(crate) output: Form,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How answers are shown.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, ValueEnum)]
pub(crate) enum Form {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the storage node, or show the one that runs
    Node(NodeCommand),
    /// Pools: what volumes live in
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Snapshots of volumes
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Put a volume, or any NVMe/TCP target, under load, and show how it does
    Bench(BenchCommand),
}

/// `fathom node`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct NodeCommand {
    /// How it shall run.
    #[command(flatten)]
    pub(crate) flags: Flags,
    /// Say whether the configuration is right and this machine can run it, and end
    #[arg(long)]
    pub(crate) check: bool,
    /// Instead of running one.
    #[command(subcommand)]
    pub(crate) show: Option<NodeShow>,
}

/// What to ask of the node that runs.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeShow {
    /// Show the node that runs
    Show,
}

/// `fathom pool`.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Make a new pool of disks or files
    Create {
        /// Its name
        name: String,
        /// Disks, partitions and files; a file that does not exist is made with --size
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// The size of files that do not exist yet
        #[arg(long, value_parser = size::parse)]
        size: Option<u64>,
        /// The allocation unit, 64KiB to 4MiB [default: 1MiB]
        #[arg(long, value_parser = size::parse, value_name = "SIZE")]
        cluster_size: Option<u64>,
        /// Write over whatever the disks hold
        #[arg(long)]
        force: bool,
        /// How pool and labels shall be
        #[command(flatten)]
        settings: PoolSettings,
    },
    /// Open the pools that are on these disks or files, and remember them
    Import {
        /// Where their members are, in any order and under any name [default: all block devices]
        paths: Vec<PathBuf>,
        /// Only the pool of this name or UUID
        #[arg(long, value_name = "POOL")]
        pool: Option<String>,
        /// Also when members are missing
        #[arg(long)]
        degraded: bool,
    },
    /// Close a pool and forget it; its disks keep everything
    Release {
        /// The pool's name or UUID
        pool: String,
    },
    /// Add disks or files to a pool in use, or use what its disks have grown by
    Grow {
        /// The pool's name or UUID
        pool: String,
        /// New members [default: none; the disks that it has may have grown]
        paths: Vec<PathBuf>,
        /// The size of files that do not exist yet
        #[arg(long, value_parser = size::parse)]
        size: Option<u64>,
        /// Write over whatever the new disks hold
        #[arg(long)]
        force: bool,
    },
    /// Make copies of a pool's metadata whole that have missed something
    Rejoin {
        /// The pool's name or UUID
        pool: String,
    },
    /// Look at everything on the disks of a pool that is not open, and say what is wrong; needs no
    /// daemon and writes nothing
    Check {
        /// Where its members are, in any order and under any name [default: all block devices]
        paths: Vec<PathBuf>,
        /// The pool's name or UUID, when there are several
        #[arg(long, value_name = "POOL")]
        pool: Option<String>,
        /// Also when members are missing
        #[arg(long)]
        degraded: bool,
    },
    /// Destroy a pool: its disks are blank afterwards, and nothing brings it back
    Destroy {
        /// The pool's name or UUID
        pool: String,
        /// Its volumes and snapshots with it
        #[arg(long)]
        force: bool,
    },
    /// Change what is settable
    Set {
        /// The pool's name or UUID
        pool: String,
        /// What changes
        #[command(flatten)]
        settings: PoolSettings,
        /// Remove a label; repeatable
        #[arg(long, value_name = "KEY")]
        remove_label: Vec<String>,
    },
    /// List the pools
    List,
    /// Show a pool
    Show {
        /// The pool's name or UUID
        pool: String,
    },
}

/// What is settable on a pool.
#[derive(Clone, Debug, Args)]
pub(crate) struct PoolSettings {
    /// How much all volumes together may promise, in percent of the capacity; 0 for no limit
    #[arg(long, value_name = "PERCENT")]
    pub(crate) overcommit: Option<u32>,
    /// Tell when used capacity falls below this again; 0 for the upper one
    #[arg(long, value_name = "PERCENT")]
    pub(crate) watermark_low: Option<u32>,
    /// Tell when used capacity reaches this; 0 for never
    #[arg(long, value_name = "PERCENT")]
    pub(crate) watermark_high: Option<u32>,
    /// Set a label; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
}

/// `fathom volume`.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume, empty or from another volume or a snapshot
    Create {
        /// Its name
        name: String,
        /// Its size, such as 10GiB; a volume with a source may have the source's
        #[arg(long, value_parser = size::parse, required_unless_present = "from")]
        size: Option<u64>,
        /// The pool; may be left out when there is one
        #[arg(long)]
        pool: Option<String>,
        /// Set its capacity aside from the start: no write ever finds the pool full
        #[arg(long)]
        thick: bool,
        /// The logical block size, 512 or 4096 [default: 4096]
        #[arg(long, value_name = "BYTES")]
        block_size: Option<u32>,
        /// off: every write is on stable media before it is acknowledged
        #[arg(long, value_enum, default_value_t)]
        write_cache: Switch,
        /// Begin with the content of this volume or snapshot
        #[arg(long, value_name = "VOLUME|VOLUME@SNAPSHOT")]
        from: Option<String>,
        /// A UUID of the caller's, so that the command can be repeated
        #[arg(long)]
        uuid: Option<String>,
        /// How much may be asked of it
        #[command(flatten)]
        limits: LimitFlags,
        /// Set a label; repeatable
        #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
        label: Vec<(String, String)>,
    },
    /// Change limits and labels
    Set {
        /// The volume
        volume: String,
        /// How much may be asked of it
        #[command(flatten)]
        limits: LimitFlags,
        /// Set a label; repeatable
        #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
        label: Vec<(String, String)>,
        /// Remove a label; repeatable
        #[arg(long, value_name = "KEY")]
        remove_label: Vec<String>,
    },
    /// List the volumes
    List {
        /// Of this pool only
        #[arg(long)]
        pool: Option<String>,
    },
    /// Show a volume
    Show {
        /// The volume
        volume: String,
    },
    /// Make a volume larger; connected hosts see it at once
    Resize {
        /// The volume
        volume: String,
        /// Its new size
        #[arg(long, value_parser = size::parse)]
        size: u64,
    },
    /// Give a volume another name
    Rename {
        /// The volume
        volume: String,
        /// Its new name
        name: String,
    },
    /// Delete a volume; its snapshots stay
    Delete {
        /// The volume
        volume: String,
        /// Succeed when there is none
        #[arg(long)]
        if_exists: bool,
    },
    /// Serve a volume to hosts over NVMe/TCP
    Export {
        /// The volume
        volume: String,
        /// A host that may connect, by its NQN; repeatable, and all of them at once
        #[arg(long, value_name = "NQN", required_unless_present = "any_host")]
        host: Vec<String>,
        /// Let every host connect
        #[arg(long, conflicts_with = "host")]
        any_host: bool,
    },
    /// Stop serving a volume; hosts are cut off
    Unexport {
        /// The volume
        volume: String,
    },
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, ValueEnum)]
pub(crate) enum Switch {
    /// On
    #[default]
    On,
    /// Off
    Off,
}

/// How much may be asked of a volume; 0 for no limit.
#[derive(Clone, Debug, Args)]
pub(crate) struct LimitFlags {
    /// Commands per second
    #[arg(long, value_name = "N")]
    pub(crate) iops_limit: Option<u64>,
    /// Reads per second
    #[arg(long, value_name = "N")]
    pub(crate) read_iops_limit: Option<u64>,
    /// Writes per second
    #[arg(long, value_name = "N")]
    pub(crate) write_iops_limit: Option<u64>,
    /// Bytes per second, such as 100MiB
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) bandwidth_limit: Option<u64>,
    /// Bytes read per second
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) read_bandwidth_limit: Option<u64>,
    /// Bytes written per second
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) write_bandwidth_limit: Option<u64>,
    /// For how long an idle volume saves what it did not use
    #[arg(long, value_name = "SECONDS")]
    pub(crate) burst: Option<u32>,
}

/// `fathom snapshot`.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Take snapshots, several at one point in time
    Create {
        /// VOLUME@NAME; the volumes are all in one pool
        #[arg(required = true, value_name = "VOLUME@NAME")]
        snapshots: Vec<String>,
        /// Set a label; repeatable
        #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
        label: Vec<(String, String)>,
    },
    /// List snapshots
    List {
        /// Of this volume only
        volume: Option<String>,
    },
    /// Show a snapshot
    Show {
        /// VOLUME@NAME
        snapshot: String,
    },
    /// List where a snapshot or volume differs from an earlier one, or where it has data
    Diff {
        /// What is listed: VOLUME@NAME or VOLUME
        object: String,
        /// What it is compared with
        #[arg(long, value_name = "VOLUME@NAME")]
        base: Option<String>,
    },
    /// Make a volume's content that of its snapshot; no host may be connected
    Rollback {
        /// VOLUME@NAME
        snapshot: String,
    },
    /// Delete a snapshot
    Delete {
        /// VOLUME@NAME
        snapshot: String,
        /// Succeed when there is none
        #[arg(long)]
        if_exists: bool,
    },
}

/// `fathom bench`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["volume", "nqn", "scratch"])))]
pub(crate) struct BenchCommand {
    /// A volume of the node that runs here; it is exported to the bench as long as that takes
    #[arg(long)]
    pub(crate) volume: Option<String>,
    /// Make a volume for this, and delete it afterwards
    #[arg(long)]
    pub(crate) scratch: bool,
    /// The size of the scratch volume
    #[arg(long, value_parser = size::parse, default_value = "1GiB", conflicts_with_all = ["volume", "nqn"])]
    pub(crate) size: u64,
    /// The pool of the scratch volume; may be left out when there is one
    #[arg(long, conflicts_with_all = ["volume", "nqn"])]
    pub(crate) pool: Option<String>,
    /// An NVM subsystem of any target
    #[arg(long, requires = "traddr")]
    pub(crate) nqn: Option<String>,
    /// The target's address
    #[arg(long, conflicts_with_all = ["volume", "scratch"])]
    pub(crate) traddr: Option<std::net::IpAddr>,
    /// The target's port
    #[arg(long, conflicts_with_all = ["volume", "scratch"], default_value_t = 4420)]
    pub(crate) trsvcid: u16,
    /// The namespace in the subsystem
    #[arg(long, conflicts_with_all = ["volume", "scratch"], default_value_t = 1)]
    pub(crate) nsid: u32,
    /// The name under which this host connects [default: a new one]
    #[arg(long)]
    pub(crate) hostnqn: Option<String>,
    /// Which requests
    #[arg(long, value_enum)]
    pub(crate) rw: Pattern,
    /// Of a hundred requests of randrw, how many are reads
    #[arg(long, value_name = "PERCENT", default_value_t = 50,
          value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) read_percent: u8,
    /// Bytes of a request
    #[arg(long, value_parser = size::parse, default_value = "4k")]
    pub(crate) bs: u64,
    /// Requests that each job has under way
    #[arg(long, default_value_t = 32)]
    pub(crate) qd: u32,
    /// Jobs, each with an I/O queue of its own
    #[arg(long, default_value_t = 1)]
    pub(crate) jobs: u16,
    /// Event loops over which the jobs are spread
    #[arg(long, default_value_t = 1)]
    pub(crate) loops: u16,
    /// For so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) time: u64,
    /// Use header digests
    #[arg(long)]
    pub(crate) hdgst: bool,
    /// Use data digests
    #[arg(long)]
    pub(crate) ddgst: bool,
    /// Write over what a volume holds
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// Which requests a load consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Pattern {
    /// Reads, one after another
    Read,
    /// Writes, one after another
    Write,
    /// Reads anywhere
    Randread,
    /// Writes anywhere
    Randwrite,
    /// Reads and writes anywhere
    Randrw,
}

/// Reads `KEY=VALUE`.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is given as KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_socket_may_stand_before_and_after_the_words() {
        for words in [
            ["fathom", "--api", "/s", "pool", "list"],
            ["fathom", "pool", "list", "--api", "/s"],
            ["fathom", "pool", "--api", "/s", "list"],
        ] {
            let cli = Cli::try_parse_from(words).expect("it is right");
            assert_eq!(cli.api, Some("/s".into()));
        }
    }

    #[test]
    fn what_is_left_out_or_makes_no_sense_together_is_refused() {
        for words in [
            &["fathom", "volume", "create", "v"][..],
            &["fathom", "volume", "export", "v"],
            &["fathom", "volume", "export", "v", "--any-host", "--host", "nqn.x"],
            &["fathom", "pool", "create", "p"],
            &["fathom", "volume", "create", "v", "--size", "1GB"],
            &["fathom", "snapshot", "create"],
            &["fathom", "node", "--listen", "nowhere"],
            &["fathom", "bench", "--rw", "read"],
            &["fathom", "bench", "--rw", "read", "--volume", "v", "--scratch"],
            &["fathom", "bench", "--rw", "read", "--nqn", "nqn.x"],
            &["fathom", "bench", "--rw", "read", "--volume", "v", "--traddr", "192.0.2.1"],
        ] {
            Cli::try_parse_from(words).expect_err(&words.join(" "));
        }
    }
}
