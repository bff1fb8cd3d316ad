//! `fathom node`: the appliance daemon.
//!
//! - [`config`]: what it shall do. [`state`]: what it remembers.
//!   [`check`]: whether it could.
//! - [`node`]: loops, target, pools. [`pools`], [`volumes`], [`exports`], [`snapshots`]: what can be
//!   asked of it. [`names`], [`labels`], [`error`]: in what words.
//! - [`services`]: the same over gRPC. [`listen`]: on which socket. [`notify`]: telling systemd.

pub(crate) mod config;
mod state;

mod check;

mod error;
mod labels;
mod names;

mod node;

mod exports;
mod pools;
mod snapshots;
mod volumes;

mod listen;
mod notify;
mod services;

use std::{io, sync::Arc, time::Duration};

use fathom_api::v1 as api;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;

use self::{
    config::Config,
    node::{Node, StartError},
    services::Services,
};

/// How long calls may take to end when the node stops.
const CALLS_WAIT: Duration = Duration::from_secs(5);

/// The daemon cannot run, or not any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Its threads, signals or socket.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
    /// The API's socket cannot be used.
    #[error(transparent)]
    Api(#[from] listen::ListenError),
    /// The API ended by itself.
    #[error("the API ended: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// `fathom node`: runs the daemon, or with `check` only says whether it could.
///
/// # Errors
///
/// What is wrong with the configuration or the machine, or what ended the daemon.
pub(crate) fn main(
    flags: config::Flags,
    api: Option<std::path::PathBuf>,
    check: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::new(flags, api)?;
    if check {
        return check::check(&config);
    }
    Ok(run(config)?)
}

/// Runs the daemon until SIGTERM or SIGINT, and ends it in order.
///
/// # Errors
///
/// Why it did not start, or what ended it.
pub(crate) fn run(config: Config) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(services::CALLS_MAX)
        .thread_name("fathom-api")
        .build()
        .map_err(|error| DaemonError::Io("starting the API's thread", error))?;
    raise_open_files();
    // A busy socket is found out before anything is opened; calls wait until the node serves.
    let socket = listen::Socket::bind(&config.api)?;
    tracing::info!(api = %config.api.display(), "opening the pools");
    let node = Arc::new(Node::start(config)?);
    let served = runtime.block_on(serve(socket, Arc::clone(&node)));
    notify::notify(notify::STOPPING);
    // Calls that are under way end, or are left behind.
    runtime.shutdown_timeout(CALLS_WAIT);
    node.stop();
    tracing::info!("stopped");
    served
}

/// Lets the process have as many open files as it may: each connection is one.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(error) = raised {
        tracing::warn!(%error, limit = limit.current, "the limit of open files stays");
    }
}

/// Serves the API until a signal comes.
async fn serve(socket: listen::Socket, node: Arc<Node>) -> Result<(), DaemonError> {
    let of_signals = |error| DaemonError::Io("waiting for signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(of_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(of_signals)?;
    let incoming = socket.incoming();
    let incoming = incoming.map_err(|error| DaemonError::Io("listening for calls", error))?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(fathom_api::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors are those that the stubs were made from");
    let services = Services::new(node);
    tracing::info!("ready");
    notify::notify(notify::READY);
    let (signalled, mut told) = tokio::sync::watch::channel(false);
    let until_signalled = async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: finishing what was received"),
            _ = interrupt.recv() => tracing::info!("SIGINT: finishing what was received"),
        }
        health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        signalled.send_replace(true);
    };
    let serving = Server::builder()
        .add_service(health_service)
        .add_service(reflection)
        .add_service(api::node_server::NodeServer::new(services.clone()))
        .add_service(api::pools_server::PoolsServer::new(services.clone()))
        .add_service(api::volumes_server::VolumesServer::new(services.clone()))
        .add_service(api::snapshots_server::SnapshotsServer::new(services))
        .serve_with_incoming_shutdown(incoming, until_signalled);
    // Whoever keeps a connection open does not keep the node from ending.
    let late = async move {
        let _ = told.wait_for(|&signalled| signalled).await;
        tokio::time::sleep(CALLS_WAIT).await;
    };
    tokio::select! {
        served = serving => Ok(served?),
        () = late => Ok(()),
    }
}
