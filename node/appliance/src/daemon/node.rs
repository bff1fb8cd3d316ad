//! The node: its event loops, its target, and the pools that are open.
//!
//! ```text
//!   start: loops -> target -> pools opened or refused -> exports restored -> port opened
//!   stop:  API closed -> connections finished and closed -> pools closed -> loops ended
//! ```
//!
//! - Calls here block, and are made on threads that may: the API's. I/O never passes here.
//! - A pool that cannot be opened keeps no other from being served; [`Node::closed`] tells why.
//! - A record on the pool is changed before the target is: after a crash the record holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc::RecvTimeoutError,
    },
    time::{Duration, Instant},
};

use fathom_engine::{
    message::NodeMessage,
    native::{
        devices::{ImportError, Wanted, block_devices},
        handle::PoolHandle,
        members::{Member, Members, Memory, Opened},
        message::CallError,
    },
    serve::{handle::TargetHandle, message::Closure},
};
use fathom_lvs::{
    Health, OpenOptions,
    geometry::{ClusterSize, ObjectId},
};
use fathom_runtime::{
    Address, Configuration, Loops,
    net::{ConnectionLimit, Listener},
};
use fathom_target::{
    connection::Limits,
    target::{Portal, Settings},
};
use fathom_units::ByteCount;
use uuid::Uuid;

use super::{
    config::{Backing, Config, PoolSpec},
    error::{CallFailed, Kind},
    pools::NewPoolOptions,
    state::{PoolEntry, StateDirectory, StateError},
};

/// Connections of hosts that may be open at once.
const CONNECTIONS_MAX: usize = 4096;
/// Connections that may wait to be taken, for each listening address.
const BACKLOG: i32 = 128;
/// How long a device that somebody else has is waited for at the start: a daemon that was killed keeps
/// its own until the kernel has finished its last request.
const START_WAIT: Duration = Duration::from_secs(30);
/// How long a port that is in use is waited for at the start, for the same reason.
const PORT_WAIT: Duration = Duration::from_secs(5);
/// How long a device is waited for by a call.
pub(super) const CALL_WAIT: Duration = Duration::from_secs(2);
/// How long connections may take to finish what was received when the node stops.
const DRAIN_WAIT: Duration = Duration::from_secs(20);
/// How long commands that are at devices are waited for when a host may not use a volume any more.
pub(super) const FENCE_WAIT: Duration = Duration::from_secs(60);
/// How long a change of a pool may take.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// How long the pools' actors may take to close.
const CLOSE_WAIT: Duration = Duration::from_secs(60);

/// The node.
pub(crate) struct Node {
    pub(super) loops: Loops<NodeMessage>,
    pub(super) target: TargetHandle<NodeMessage>,
    porters: Mutex<Vec<Address>>,
    limit: ConnectionLimit,
    listening: Mutex<Vec<Portal>>,
    pub(super) state: StateDirectory,
    pub(super) config: Config,
    pub(super) pools: RwLock<BTreeMap<String, Arc<OpenPool>>>,
    /// Held while pools come and go.
    changes: Mutex<()>,
    closed: Mutex<BTreeMap<String, ClosedPool>>,
    /// Which volume the target serves under an NQN: two pools may have copies of one.
    pub(super) serving: Mutex<BTreeMap<String, (Uuid, ObjectId)>>,
    next_device: AtomicU64,
    next_loop: AtomicU64,
    started: Instant,
}

/// A pool that is open.
pub(crate) struct OpenPool {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) cluster_size: ClusterSize,
    pub(crate) is_volatile: bool,
    /// Where its members are, and how large; none for one in memory.
    members: Mutex<Vec<(PathBuf, ByteCount)>>,
    pub(super) handle: PoolHandle<NodeMessage>,
    /// Held while one of its objects is looked at and then changed.
    changes: Mutex<()>,
}

/// A pool that is not open though it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ClosedPool {
    /// Its UUID, if that is known.
    pub(crate) uuid: Option<Uuid>,
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) reason: String,
}

/// The node cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The event loops.
    #[error(transparent)]
    Loops(#[from] fathom_runtime::SetupError),
    /// An address.
    #[error(transparent)]
    Listen(#[from] fathom_runtime::net::ListenError),
    /// A loop ended while the node started.
    #[error("an event loop ended while the node started")]
    Ended,
}

/// Locks what has no invariant that a panic could break.
pub(super) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenPool {
    /// Where its members are, and how large; none for one in memory.
    pub(crate) fn members(&self) -> Vec<(PathBuf, ByteCount)> {
        hold(&self.members).clone()
    }

    /// Where its members are.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        hold(&self.members).iter().map(|(path, _)| path.clone()).collect()
    }

    /// Its members are these now.
    pub(super) fn set_members(&self, members: Vec<(PathBuf, ByteCount)>) {
        *hold(&self.members) = members;
    }

    /// Keeps other calls from changing its objects meanwhile.
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        hold(&self.changes)
    }

    /// Looks at the store.
    pub(super) fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&fathom_lvs::Store) -> T + Send + 'static,
    ) -> Result<T, CallFailed> {
        let closed = || CallFailed::new(Kind::Unavailable, "it was closed meanwhile");
        self.handle.look(look).ok_or_else(|| closed().about("pool", &self.name))
    }

    /// Has the store change something, durably.
    pub(super) fn call(
        &self,
        call: impl FnOnce(&mut fathom_lvs::Store) -> Result<fathom_lvs::Ticket, fathom_lvs::Refused>
        + Send
        + 'static,
    ) -> Result<(), CallFailed> {
        let ended = self.handle.begin_call(call);
        match ended.recv_timeout(ANSWER_WAIT) {
            Ok(result) => Ok(result?),
            Err(RecvTimeoutError::Disconnected) => Err(CallError::Closed.into()),
            Err(RecvTimeoutError::Timeout) => {
                let late = format!(
                    "its devices have not answered within {} s; it may still be done",
                    ANSWER_WAIT.as_secs()
                );
                Err(CallFailed::new(Kind::Unavailable, late).about("pool", &self.name))
            }
        }
    }

    /// What the store says is on stable media, unless it has failed: then what was changed last may
    /// be in memory only, and an answer from there would promise too much.
    pub(super) fn confirm(&self) -> Result<(), CallFailed> {
        match self.look(|store| store.health())? {
            Health::Failed { reason, .. } => {
                let failed =
                    CallFailed::new(Kind::Precondition, format_args!("it failed: {reason}"));
                Err(failed.about("pool", &self.name))
            }
            Health::Good | Health::Degraded { .. } => Ok(()),
        }
    }
}

impl Node {
    /// Starts the loops and the target, opens the pools, restores their exports and opens the port.
    ///
    /// # Errors
    ///
    /// What the node cannot run without. A pool that is refused is no error.
    pub(crate) fn start(config: Config) -> Result<Self, StartError> {
        let state = StateDirectory::open(&config.state)?;
        let loops =
            Loops::start(&Configuration { cores: config.cores.clone(), ..Default::default() })?;
        let limit = ConnectionLimit::new(CONNECTIONS_MAX);
        // Before anything is opened, so that a busy port changes nothing; nobody is let in yet.
        let listeners: Vec<Listener> = config
            .listen
            .iter()
            .map(|&address| Listener::bind_within(address, BACKLOG, &limit, PORT_WAIT))
            .collect::<Result<_, _>>()?;
        let portals: Vec<Portal> = listeners
            .iter()
            .map(|listener| {
                let local = listener.local();
                Portal { address: config.advertise.unwrap_or(local.ip()), port: local.port() }
            })
            .collect();
        let settings = Settings {
            limits: Limits::default(),
            portals: portals.clone(),
            model: "Fathom".to_owned(),
            firmware: env!("CARGO_PKG_VERSION").chars().take(8).collect(),
        };
        let (target, porters) =
            TargetHandle::start(&loops, settings).map_err(|_| StartError::Ended)?;
        let node = Self {
            loops,
            target,
            porters: Mutex::new(porters),
            limit,
            listening: Mutex::new(portals),
            state,
            config,
            pools: RwLock::default(),
            changes: Mutex::default(),
            closed: Mutex::default(),
            serving: Mutex::default(),
            next_device: AtomicU64::new(1),
            next_loop: AtomicU64::new(0),
            started: Instant::now(),
        };
        node.open_pools()?;
        let porters = std::mem::take(&mut *hold(&node.porters));
        node.target.open(listeners, porters).map_err(|_| StartError::Ended)?;
        Ok(node)
    }

    /// Opens the pools of the configuration and those that are recorded.
    fn open_pools(&self) -> Result<(), StateError> {
        let mut given = BTreeSet::new();
        for spec in self.config.pools.clone() {
            given.insert(spec.name.clone());
            let paths = match &spec.backing {
                Backing::Paths { paths, .. } => paths.clone(),
                Backing::Memory(_) => Vec::new(),
            };
            let name = spec.name.clone();
            if let Err(failed) = self.open_given(spec) {
                let uuid = self.state.find(&name).ok().flatten().map(|entry| entry.uuid);
                let reason = failed.to_string();
                self.refuse(&name, ClosedPool { uuid, paths, reason });
            }
        }
        for (name, entry) in self.state.pools()? {
            if given.contains(&name) {
                continue;
            }
            let closed = match entry {
                Err(error) => {
                    ClosedPool { uuid: None, paths: Vec::new(), reason: error.to_string() }
                }
                Ok(PoolEntry { uuid, paths, .. }) => match self.open_recorded(uuid, &paths) {
                    Ok(()) => continue,
                    Err(failed) => {
                        ClosedPool { uuid: Some(uuid), paths, reason: failed.to_string() }
                    }
                },
            };
            self.refuse(&name, closed);
        }
        Ok(())
    }

    /// Opens or creates a pool of the configuration.
    fn open_given(&self, spec: PoolSpec) -> Result<(), CallFailed> {
        let _changes = self.hold();
        let PoolSpec { name, backing } = spec;
        let (opened, is_new) = match backing {
            Backing::Memory(size) => {
                self.check_name(&name, None)?;
                let members = Members(vec![Member::Memory(Memory::new(size))]);
                (self.create(members, NewPoolOptions::named(&name))?, false)
            }
            Backing::Paths { paths, size } => {
                if let Some(entry) = self.find_record(&name)? {
                    // It is known: it is found wherever its disks are, and never made anew.
                    (self.import_known(entry.uuid, [entry.paths, paths].concat())?, true)
                } else if paths.iter().any(|path| path.exists()) {
                    let degraded = options(self.config.degraded);
                    (Opened::import(&paths, &Wanted::Only, degraded, START_WAIT)?, true)
                } else {
                    let options = NewPoolOptions::named(&name);
                    (self.create_on_paths(&paths, size, options)?, true)
                }
            }
        };
        if opened.name() != name {
            let found = opened.name();
            let wrong = format!("its members belong to pool \"{found}\"; give that name");
            return Err(CallFailed::new(Kind::Precondition, wrong).about("pool", &name));
        }
        self.adopt(opened, is_new)?;
        Ok(())
    }

    fn open_recorded(&self, uuid: Uuid, paths: &[PathBuf]) -> Result<(), CallFailed> {
        let _changes = self.hold();
        self.adopt(self.import_known(uuid, paths.to_vec())?, true)?;
        Ok(())
    }

    /// Opens a pool whose UUID is known: from these paths, or, when members are not there, from
    /// wherever they are now.
    fn import_known(&self, uuid: Uuid, mut paths: Vec<PathBuf>) -> Result<Opened, CallFailed> {
        let wanted = Wanted::Uuid(uuid);
        match Opened::import(&paths, &wanted, OpenOptions::WHOLE, START_WAIT) {
            Err(ImportError::None { .. } | ImportError::Missing { .. }) => {}
            Ok(opened) => return Ok(opened),
            Err(_) if self.config.degraded => {}
            Err(error) => return Err(error.into()),
        }
        paths.extend(block_devices().unwrap_or_default());
        Ok(Opened::import(&paths, &wanted, options(self.config.degraded), START_WAIT)?)
    }

    /// What is remembered of a pool.
    fn find_record(&self, name: &str) -> Result<Option<PoolEntry>, CallFailed> {
        self.state.find(name).map_err(|error| CallFailed::new(Kind::Precondition, error))
    }

    /// Refuses the name of a pool that is remembered, unless it is this one.
    pub(super) fn check_name(&self, name: &str, uuid: Option<Uuid>) -> Result<(), CallFailed> {
        match self.find_record(name)? {
            Some(entry) if Some(entry.uuid) != uuid => {
                let wrong = format!(
                    "another pool of this name ({}) is remembered, and not open; bring its disks \
                     back, or `fathom pool release {name}` first",
                    entry.uuid
                );
                Err(CallFailed::new(Kind::Exists, wrong).about("pool", name))
            }
            _ => Ok(()),
        }
    }

    /// Puts an open pool onto a loop, serves what it exports, and records it if it shall be opened
    /// again.
    pub(super) fn adopt(&self, opened: Opened, record: bool) -> Result<Arc<OpenPool>, CallFailed> {
        let name = opened.name().to_owned();
        if self.find_open(&name).is_some() {
            let failed = CallFailed::new(Kind::Exists, "a pool of this name is open");
            return Err(failed.about("pool", &name));
        }
        super::names::check_new("pool", &name)?;
        self.check_name(&name, Some(opened.uuid()))?;
        let members = opened.paths();
        let (uuid, cluster_size, is_volatile) =
            (opened.uuid(), opened.cluster_size(), opened.is_volatile());
        let (replayed, taken_back) = opened.recovered();
        let paths: Vec<PathBuf> = members.iter().map(|(path, _)| path.clone()).collect();
        if record && !is_volatile {
            self.record(&PoolEntry { name: name.clone(), uuid, paths })?;
        }
        let count = self.loops.count() as u64;
        let number = self.next_loop.fetch_add(1, Ordering::Relaxed) % count;
        let remote = self.loops.remote(usize::try_from(number).expect("few loops"));
        let handle = PoolHandle::start(remote, opened)
            .map_err(|_| CallFailed::new(Kind::Unavailable, "the node is stopping"))?;
        let (members, changes) = (Mutex::new(members), Mutex::default());
        let pool = OpenPool { name, uuid, cluster_size, is_volatile, members, handle, changes };
        let pool = Arc::new(pool);
        tracing::info!(
            pool = pool.name,
            uuid = %pool.uuid,
            replayed,
            taken_back,
            volatile = is_volatile,
            "pool opened"
        );
        hold(&self.closed).remove(&pool.name);
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.insert(pool.name.clone(), Arc::clone(&pool));
        drop(pools);
        self.restore_exports(&pool)?;
        Ok(pool)
    }

    /// Records a pool, so that the next start opens it.
    pub(super) fn record(&self, entry: &PoolEntry) -> Result<(), CallFailed> {
        self.state.record(entry).map_err(|error| CallFailed::new(Kind::Failed, error))
    }

    pub(super) fn refuse(&self, name: &str, closed: ClosedPool) {
        tracing::error!(pool = name, reason = closed.reason, "pool not open");
        hold(&self.closed).insert(name.to_owned(), closed);
    }

    /// Keeps other calls from opening, creating and closing pools meanwhile.
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        hold(&self.changes)
    }

    /// The pool of that name, if it is open.
    pub(super) fn find_open(&self, name: &str) -> Option<Arc<OpenPool>> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.get(name).cloned()
    }

    /// The pools that are open, by name.
    pub(crate) fn open_pools_by_name(&self) -> Vec<Arc<OpenPool>> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.values().cloned().collect()
    }

    /// Whether a pool is still open.
    pub(crate) fn is_open(&self, pool: &OpenPool) -> bool {
        self.find_open(&pool.name).is_some_and(|open| open.uuid == pool.uuid)
    }

    /// A pool is not to be opened any more.
    pub(super) fn forget_closed(&self, name: &str) -> bool {
        hold(&self.closed).remove(name).is_some()
    }

    /// The pools that are not open though they should be, and why.
    pub(crate) fn closed(&self) -> Vec<(String, ClosedPool)> {
        let closed = hold(&self.closed);
        closed.iter().map(|(name, pool)| (name.clone(), pool.clone())).collect()
    }

    /// A name for a device of the target, never given before.
    pub(super) fn new_device(&self) -> fathom_target::export::DeviceId {
        fathom_target::export::DeviceId(self.next_device.fetch_add(1, Ordering::Relaxed))
    }

    /// Where hosts connect.
    pub(crate) fn listening(&self) -> Vec<String> {
        let listening = hold(&self.listening);
        let told =
            |portal: &Portal| std::net::SocketAddr::new(portal.address, portal.port).to_string();
        listening.iter().map(told).collect()
    }

    /// How many event loops there are.
    pub(crate) fn loops(&self) -> usize {
        self.loops.count()
    }

    /// How many connections of hosts are open.
    pub(crate) fn connections(&self) -> usize {
        self.limit.open()
    }

    /// Since when it runs.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Finishes what was received, closes connections and pools, and ends the loops. What was
    /// acknowledged is on the members, and what a host has flushed is on stable media.
    pub(crate) fn stop(self: Arc<Self>) {
        match self.target.close(DRAIN_WAIT) {
            Ok(Closure { cut: 0, .. }) => {}
            Ok(Closure { cut, .. }) => {
                tracing::warn!(connections = cut, "reset: they had not finished in time");
            }
            Err(error) => tracing::warn!(%error, "connections may be cut off"),
        }
        match Arc::into_inner(self) {
            Some(node) => node.loops.stop(),
            // What was acknowledged survives the end of the process all the same.
            None => tracing::warn!("a call has not ended: pools are not closed"),
        }
    }
}

/// How a pool is opened.
pub(super) fn options(degraded: bool) -> OpenOptions {
    if degraded { OpenOptions::DEGRADED } else { OpenOptions::WHOLE }
}

/// Waits until a pool that was told to retire has closed.
pub(super) fn wait_until_closed(pool: &OpenPool) -> Result<(), CallFailed> {
    let events = pool.handle.subscribe(1);
    pool.handle.retire();
    let deadline = Instant::now() + CLOSE_WAIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.next(left) {
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Ok(_) if !left.is_zero() => {}
            Ok(_) | Err(RecvTimeoutError::Timeout) => {
                let failed = CallFailed::new(
                    Kind::Unavailable,
                    format_args!("it is still closing after {} s", CLOSE_WAIT.as_secs()),
                );
                return Err(failed.about("pool", &pool.name));
            }
        }
    }
}
