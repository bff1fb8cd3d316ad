//! A node in this process: loops, a pool in memory, and a target that listens on loopback.

use std::{
    net::{Ipv4Addr, SocketAddr},
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
    NewMember, NewPool, NewVolume,
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
/// The size of the volume, in blocks of 4096 bytes.
pub const BLOCKS: u64 = 64 * MIB / 4096;
/// Connections that may be open at once.
pub const CONNECTIONS_MAX: usize = 1_100;

/// A node that serves [`VOLUME`].
pub struct Node {
    /// Its loops.
    pub loops: Loops<NodeMessage>,
    /// Its pool.
    pub pool: PoolHandle<NodeMessage>,
    /// Its target.
    pub target: TargetHandle<NodeMessage>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Counts its connections.
    pub limit: ConnectionLimit,
    /// The volume.
    pub object: ObjectId,
    porters: Vec<Address>,
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
    pub fn start_with(configuration: &Configuration, limits: Limits) -> Self {
        let loops = Loops::start(configuration).expect("loops start");
        let members = Members(vec![Member::Memory(Memory::new(256 * MIB))]);
        let opened = Opened::create(members, &new_pool()).expect("a new pool");
        let pool = PoolHandle::start(loops.remote(0), opened).expect("the loop runs");
        pool.call(|store| store.create_volume(new_volume())).expect("a volume");
        let find = |store: &fathom_lvs::Store| store.volumes().next().expect("it exists").id;
        let object = pool.look(find).expect("the pool is open");

        let limit = ConnectionLimit::new(CONNECTIONS_MAX);
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(any, 128, &limit).expect("loopback has a free port");
        let address = listener.local();
        let settings = Settings {
            limits,
            portals: vec![Portal { address: Ipv4Addr::UNSPECIFIED.into(), port: address.port() }],
            model: "Fathom".to_owned(),
            firmware: "0.1".to_owned(),
        };
        let (target, porters) = TargetHandle::start(&loops, settings).expect("loops run");
        let node = Self { loops, pool, target, address, limit, object, porters };
        node.export();
        node.target.open(vec![listener], node.porters.clone()).expect("loops run");
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
        subsystem.namespaces[0].blocks = BLOCKS;
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

fn new_volume() -> NewVolume {
    let uuid = Uuid::from_u128(7);
    let record = VolumeRecord {
        id: ObjectId(1),
        uuid,
        tip: None,
        flags: VolumeFlags::default(),
        size: ByteCount(BLOCKS * 4096),
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
