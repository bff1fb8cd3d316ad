//! Taking connections: a gate for each process, a porter for each loop.
//!
//! The gate's listening sockets are on one loop. Each connection goes to the porter of the next loop
//! in turn, which adopts it and gives birth to its session there. A porter or a gate that is told to
//! stop takes nothing more.

use std::time::Duration;

use fathom_runtime::{
    Actor, Address, Birth, Context, Event,
    net::{Connection, Keepalive, Listener, SocketEvent, SocketKey, SocketOptions},
};
use fathom_target::{connection::Limits, target::ConnectionId};

use super::{
    message::{CarriesServe, ServeMessage},
    session::Session,
};

/// Takes the connections of listening sockets.
pub struct Gate {
    porters: Vec<Address>,
    next_porter: usize,
    next_connection: u64,
    sockets: Vec<SocketKey>,
}

impl Gate {
    /// A gate that gives the connections of `listeners` to `porters` in turn.
    ///
    /// # Panics
    ///
    /// When there is no porter, or the loop has no room for the listeners' sockets.
    pub fn birth<M: CarriesServe>(listeners: Vec<Listener>, porters: Vec<Address>) -> Birth<M> {
        assert!(!porters.is_empty(), "connections have to live somewhere");
        Box::new(move |context: &mut Context<'_, M>| {
            let listen = |(token, listener)| {
                let socket = context.listen(listener, token);
                socket.expect("the loop has room for the listeners of its process")
            };
            let sockets = (0..).zip(listeners).map(listen).collect();
            Box::new(Self { porters, next_porter: 0, next_connection: 1, sockets })
        })
    }

    fn accepted<M: CarriesServe>(&mut self, connection: Connection, context: &mut Context<'_, M>) {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let porter = self.porters[self.next_porter];
        self.next_porter = (self.next_porter + 1) % self.porters.len();
        let adopt = ServeMessage::Adopt { connection: Box::new(connection), id };
        // A loop that is overwhelmed, or has ended, takes no new connection: it is closed, and the
        // host tries again.
        drop(context.send(porter, adopt.into()));
    }
}

impl<M: CarriesServe> Actor<M> for Gate {
    fn handle(&mut self, event: Event<M>, context: &mut Context<'_, M>) {
        match event {
            Event::Socket { event: SocketEvent::Accepted(connection), .. } => {
                self.accepted(connection, context);
            }
            Event::Socket { socket, event: SocketEvent::Closed(_), .. } => {
                self.sockets.retain(|other| *other != socket);
                if self.sockets.is_empty() {
                    context.retire();
                }
            }
            Event::Stop => {
                for socket in &self.sockets {
                    context.close(*socket, fathom_runtime::net::Close::Reset);
                }
                if self.sockets.is_empty() {
                    context.retire();
                }
            }
            _ => {}
        }
    }
}

/// How TCP looks whether a silent host is still there: it may have asked for no keep alive of NVMe.
const KEEPALIVE: Keepalive =
    Keepalive { idle: Duration::from_secs(30), interval: Duration::from_secs(10), probes: 3 };
/// How long a host may leave what was sent unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Gives connections a home on its loop.
pub struct Porter {
    hub: Address,
    limits: Limits,
    options: SocketOptions,
}

impl Porter {
    /// The porter of the loop on which this is called.
    pub fn birth<M: CarriesServe>(hub: Address, limits: Limits) -> Birth<M> {
        let options = SocketOptions {
            keepalive: Some(KEEPALIVE),
            user_timeout: Some(USER_TIMEOUT),
            ..SocketOptions::default()
        };
        Box::new(move |_| Box::new(Self { hub, limits, options }))
    }
}

impl<M: CarriesServe> Actor<M> for Porter {
    fn handle(&mut self, event: Event<M>, context: &mut Context<'_, M>) {
        match event {
            Event::Message { message, .. } => {
                let Ok(ServeMessage::Adopt { connection, id }) = message.try_into() else { return };
                let session =
                    Session::birth(*connection, id, self.hub, self.limits, self.options.clone());
                context.give_birth(session);
            }
            Event::Stop => context.retire(),
            _ => {}
        }
    }
}
