//! What the actors of a node say to each other, those of pools and those that serve.

use fathom_runtime::Message;

use crate::{native::message::PoolMessage, serve::message::ServeMessage};

/// A message between actors of a node.
pub enum NodeMessage {
    /// To a pool, or from it.
    Pool(PoolMessage),
    /// To a part of the serving side, or from it.
    Serve(ServeMessage),
}

impl Message for NodeMessage {
    fn undeliverable(self) -> Option<Self> {
        match self {
            Self::Pool(message) => message.undeliverable().map(Self::Pool),
            Self::Serve(message) => message.undeliverable().map(Self::Serve),
        }
    }
}

impl From<PoolMessage> for NodeMessage {
    fn from(message: PoolMessage) -> Self {
        Self::Pool(message)
    }
}

impl From<ServeMessage> for NodeMessage {
    fn from(message: ServeMessage) -> Self {
        Self::Serve(message)
    }
}

impl TryFrom<NodeMessage> for PoolMessage {
    type Error = NodeMessage;

    fn try_from(message: NodeMessage) -> Result<Self, NodeMessage> {
        match message {
            NodeMessage::Pool(message) => Ok(message),
            other => Err(other),
        }
    }
}

impl TryFrom<NodeMessage> for ServeMessage {
    type Error = NodeMessage;

    fn try_from(message: NodeMessage) -> Result<Self, NodeMessage> {
        match message {
            NodeMessage::Serve(message) => Ok(message),
            other => Err(other),
        }
    }
}
