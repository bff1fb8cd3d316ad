//! A node in this process: loops, a pool in memory, and a target that listens on loopback.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use fathom_engine::{
    message::NodeMessage,
    native::{
        handle::PoolHandle,
        members::{Member, Members, Memory, Opened},
    },
    serve::{handle::TargetHandle, message::Route},
};
use fathom_lvs::{
    Capacity, NewMember, NewPool, NewVolume,
    format::op::{Identity, PoolRecord, QosLimits, VolumeFlags, VolumeRecord},
    geometry::{ClusterSize, ObjectId},
};
use fathom_runtime::{
    Address, Configuration, Loops,
    net::{ConnectionLimit, Listener},
};
use fathom_target::{
    connection::Limits,
    export::DeviceId,
    target::{Portal, Settings},
};
use fathom_test_target::rig::{VOLUME, nqn, volume};
use fathom_units::{ByteCount, Nsid};
use uuid::Uuid;

/// How long is waited for what should happen: nothing takes that long.
pub const LONG: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// The size of the volume unless a [`Plan`] says otherwise, in blocks of 4096 bytes.
pub const BLOCKS: u64 = 64 * MIB / 4096;
/// Connections that may be open at once.
pub const CONNECTIONS_MAX: usize = 1_100;

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its loops.
    pub loops: Configuration,
    /// What connections are granted.
    pub limits: Limits,
    /// How many ports it listens at.
    pub listeners: usize,
    /// The address at which discovery says that it is; unspecified for the one that a host reached.
    pub advertised: IpAddr,
    /// The size of its pool, in bytes. Memory is taken as it is written.
    pub pool_bytes: u64,
    /// The size of its volume, in blocks of 4096 bytes. It is thin.
    pub blocks: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            loops: Configuration::default(),
            limits: Limits::default(),
            listeners: 1,
            advertised: Ipv4Addr::UNSPECIFIED.into(),
            pool_bytes: 256 * MIB,
            blocks: BLOCKS,
        }
    }
}

/// A node that serves [`VOLUME`].
pub struct Node {
    /// Its loops.
    pub loops: Loops<NodeMessage>,
    /// Its pool.
    pub pool: PoolHandle<NodeMessage>,
    /// Its target.
    pub target: TargetHandle<NodeMessage>,
    /// Where it listens, first of all.
    pub address: SocketAddr,
    /// Everywhere it listens from the start.
    pub addresses: Vec<SocketAddr>,
    /// Counts its connections.
    pub limit: ConnectionLimit,
    /// The volume.
    pub object: ObjectId,
    porters: Vec<Address>,
    /// The size of the volume.
    blocks: AtomicU64,
}

impl Node {
    /// Starts a node with so many loops.
    ///
    /// # Panics
    ///
    /// When that is refused.
    pub fn start(loops: usize, limits: Limits) -> Self {
        Self::start_with(&Configuration { loops, ..Configuration::default() }, limits)
    }

    /// Starts a node with these loops.
    ///
    /// # Panics
    ///
    /// When that is refused.
    pub fn start_with(loops: &Configuration, limits: Limits) -> Self {
        Self::of(&Plan { loops: loops.clone(), limits, ..Plan::default() })
    }

    /// Starts a node.
    ///
    /// # Panics
    ///
    /// When that is refused.
    pub fn of(plan: &Plan) -> Self {
        let loops = Loops::start(&plan.loops).expect("loops start");
        let members = Members(vec![Member::Memory(Memory::new(plan.pool_bytes))]);
        let opened = Opened::create(members, &new_pool()).expect("a new pool");
        let pool = PoolHandle::start(loops.remote(0), opened).expect("the loop runs");
        let volume = new_volume(plan.blocks);
        pool.call(|store| store.create_volume(volume)).expect("a volume");
        let find = |store: &fathom_lvs::Store| store.volumes().next().expect("it exists").id;
        let object = pool.look(find).expect("the pool is open");

        let limit = ConnectionLimit::new(CONNECTIONS_MAX);
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listen = |_| Listener::bind(any, 128, &limit).expect("loopback has a free port");
        let listeners: Vec<_> = (0..plan.listeners).map(listen).collect();
        let addresses: Vec<_> = listeners.iter().map(Listener::local).collect();
        let portal = |at: &SocketAddr| Portal { address: plan.advertised, port: at.port() };
        let settings = Settings {
            limits: plan.limits,
            portals: addresses.iter().map(portal).collect(),
            model: "Fathom".to_owned(),
            firmware: "0.1".to_owned(),
        };
        let (target, porters) = TargetHandle::start(&loops, settings).expect("loops run");
        let address = *addresses.first().expect("it listens somewhere");
        let blocks = plan.blocks.into();
        let node = Self { loops, pool, target, address, addresses, limit, object, porters, blocks };
        node.export();
        node.target.open(listeners, node.porters.clone()).expect("loops run");
        node
    }

    /// Listens on another port.
    ///
    /// # Panics
    ///
    /// When that is refused.
    pub fn listen(&self) -> SocketAddr {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(any, 128, &self.limit).expect("loopback has a free port");
        let address = listener.local();
        self.target.open(vec![listener], self.porters.clone()).expect("loops run");
        address
    }

    /// Serves the volume.
    ///
    /// # Panics
    ///
    /// When it is served already.
    pub fn export(&self) {
        self.export_from(self.pool.address());
    }

    /// Serves the volume, whose requests go to this actor.
    ///
    /// # Panics
    ///
    /// When it is served already.
    pub fn export_from(&self, pool: Address) {
        let mut subsystem = volume();
        let device = DeviceId(self.object.0);
        subsystem.namespaces[0].device = device;
        subsystem.namespaces[0].blocks = self.blocks.load(Ordering::Relaxed);
        subsystem.controllers = 1..=1000;
        let route = Route { pool, object: self.object };
        let exported = self.target.export(subsystem, vec![(device, route)]);
        exported.expect("the target runs").expect("it is new");
    }

    /// Stops serving the volume.
    ///
    /// # Panics
    ///
    /// When it is not served.
    pub fn unexport(&self) {
        assert!(self.target.unexport(nqn(VOLUME), LONG).expect("the target runs"));
    }

    /// Makes the volume larger, and tells hosts.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn resize(&self, blocks: u64) {
        let (object, size) = (self.object, blocks * 4096);
        self.pool.call(move |store| store.resize_volume(object, size)).expect("there is space");
        self.blocks.store(blocks, Ordering::Relaxed);
        assert!(self.target.resized(nqn(VOLUME), Nsid(1), blocks).expect("the target runs"));
    }

    /// Has every actor bring its work to an end, and waits for that.
    ///
    /// # Panics
    ///
    /// When that takes longer than anything should.
    pub fn stop(self) {
        let (done, ended) = std::sync::mpsc::sync_channel(1);
        let Self { loops, .. } = self;
        let stopping = std::thread::spawn(move || {
            loops.stop();
            // Whoever does not wait any more is not told.
            let _ = done.send(());
        });
        match ended.recv_timeout(LONG) {
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                panic!("an actor has not retired within {LONG:?} of being told to stop")
            }
            // Goes on with the panic of a loop, if there was one.
            _ => stopping.join().expect("the loops end"),
        }
    }

    /// How much of its pool is used.
    ///
    /// # Panics
    ///
    /// When the pool is closed.
    pub fn capacity(&self) -> Capacity {
        self.pool.look(fathom_lvs::Store::capacity).expect("the pool is open")
    }

    /// Waits until no connection is open.
    ///
    /// # Panics
    ///
    /// When that takes longer than anything should.
    pub fn wait_for_silence(&self) {
        wait_until("no connection is open", || self.limit.open() == 0);
    }
}

/// Waits until something is so.
///
/// # Panics
///
/// With `what`, when that takes longer than anything should.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LONG, "it is not so after {LONG:?}: {what}");
        std::thread::yield_now();
    }
}

fn new_pool() -> NewPool {
    NewPool {
        name: "tank".to_owned(),
        uuid: Uuid::from_u128(99),
        members: vec![NewMember { uuid: Uuid::from_u128(1) }],
        cluster_size: ClusterSize::new(64 << 10).expect("a legal size"),
        created_ns: 1,
        record: PoolRecord::default(),
        log_bytes: None,
        slot_bytes: None,
        force: false,
    }
}

fn new_volume(blocks: u64) -> NewVolume {
    let uuid = Uuid::from_u128(7);
    let record = VolumeRecord {
        id: ObjectId(1),
        uuid,
        tip: None,
        flags: VolumeFlags::default(),
        size: ByteCount(blocks * 4096),
        logical_block_size: 4096,
        created_ns: 1,
        identity: Identity {
            subsystem_nqn: VOLUME.to_owned(),
            serial: [b' '; 20],
            nsid: 1,
            nguid: [1; 16],
            uuid,
        },
        cntlid_min: 1,
        cntlid_max: 1000,
        members: 0,
        limits: QosLimits::default(),
        name: "volume".to_owned(),
        hosts: Vec::new(),
        labels: Vec::new(),
    };
    NewVolume { record, source: None }
}
