//! The node's gRPC API: messages, client and server stubs of `proto/fathom/node/v1`.
//!
//! The `.proto` files say what each call does. Callers: the CLI, CSI, and whoever likes. The daemon in
//! `node/appliance` implements it.
//!
//! Errors are gRPC statuses: `NOT_FOUND`, `ALREADY_EXISTS` (same name, other arguments),
//! `INVALID_ARGUMENT`, `FAILED_PRECONDITION` (the state of an object forbids it now),
//! `RESOURCE_EXHAUSTED` (space), `UNAVAILABLE` (try again), `DATA_LOSS`, `INTERNAL`. The message is
//! for people: what was wrong, with which object, and what to do.

/// Version 1.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated; proto/ has the text")]
pub mod v1 {
    tonic::include_proto!("fathom.node.v1");
}

/// The compiled `.proto` files, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Writes a health as people say it, not as the number on the wire.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it like this")]
fn name_of_health<S: serde::Serializer>(health: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    let health = v1::PoolHealth::try_from(*health).unwrap_or(v1::PoolHealth::Unspecified);
    serializer.serialize_str(health_name(health))
}

/// A health as people say it.
pub fn health_name(health: v1::PoolHealth) -> &'static str {
    match health {
        v1::PoolHealth::Unspecified => "unknown",
        v1::PoolHealth::Good => "good",
        v1::PoolHealth::Degraded => "degraded",
        v1::PoolHealth::Failed => "failed",
    }
}
