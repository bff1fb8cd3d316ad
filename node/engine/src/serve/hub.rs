//! The target on a loop: it admits, answers, tells, and watches the time.
//!
//! ```text
//!   sessions, threads --> Target --> its actions --> sessions, pools, threads
//!                           ^
//!                      one timer: the next deadline
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    marker::PhantomData,
    sync::mpsc::SyncSender,
};

use fathom_block::{Operation, Request, RequestId};
use fathom_runtime::{Actor, Address, Birth, Context, Event, TimerKey};
use fathom_target::{
    export::DeviceId,
    target::{Action, ConnectionId, Settings, Target, Ticket},
};
use fathom_units::{BlockCount, Lba, Monotonic};

use super::message::{CarriesServe, Route, Routes, ServeMessage};
use crate::native::message::PoolMessage;

/// What the hub keeps beside the target.
#[derive(Default)]
pub struct Desk {
    /// Where the requests to each device go.
    pub(super) routes: HashMap<DeviceId, Route>,
    /// Who waits for a ticket.
    pub(super) waiting: HashMap<Ticket, SyncSender<()>>,
}

/// The actor that has the target.
pub struct Hub<M> {
    target: Target,
    desk: Desk,
    sessions: HashMap<ConnectionId, Address>,
    /// Flushes under way, by the ids of their requests.
    flushes: BTreeMap<u64, Ticket>,
    next_flush: u64,
    timer: Option<(Monotonic, TimerKey)>,
    stopping: bool,
    _messages: PhantomData<fn(M)>,
}

impl<M: CarriesServe> Hub<M> {
    /// The hub, on the loop on which this is called. It serves nothing yet.
    pub fn birth(settings: Settings) -> Birth<M> {
        Box::new(move |_| {
            Box::new(Self {
                target: Target::new(settings),
                desk: Desk::default(),
                sessions: HashMap::new(),
                flushes: BTreeMap::new(),
                next_flush: 0,
                timer: None,
                stopping: false,
                _messages: PhantomData,
            })
        })
    }

    fn serve_message(
        &mut self,
        from: Address,
        message: ServeMessage,
        context: &mut Context<'_, M>,
    ) {
        let now = context.now();
        match message {
            ServeMessage::Connect { connection, request, reached } => {
                self.sessions.insert(connection, from);
                self.target.connect(connection, &request, reached, now);
            }
            ServeMessage::Command { connection, request } => {
                self.target.command(connection, &request, now);
            }
            ServeMessage::Lost { connection } => self.target.lost(connection),
            ServeMessage::Finished { connection } => {
                self.target.finished(connection, now);
                self.sessions.remove(&connection);
            }
            ServeMessage::Errand(errand) => errand(&mut self.desk, &mut self.target, now),
            _ => debug_assert!(false, "a message that no hub understands"),
        }
    }

    /// Does what the target wants done, and sets the timer.
    fn act(&mut self, context: &mut Context<'_, M>) {
        while let Some(action) = self.target.next_action() {
            match action {
                Action::Admit(connection, admission) => {
                    let namespaces = admission.namespaces.iter();
                    let routes: Routes = namespaces
                        .filter_map(|namespace| {
                            let route = self.desk.routes.get(&namespace.device)?;
                            Some((namespace.device, *route))
                        })
                        .collect::<Vec<_>>()
                        .into();
                    self.tell(connection, ServeMessage::Admit { admission, routes }, context);
                }
                Action::Refuse(connection, answer) => {
                    self.tell(connection, ServeMessage::Refuse(answer), context);
                }
                Action::Answer(connection, slot, answer) => {
                    self.tell(connection, ServeMessage::Answer(slot, Box::new(answer)), context);
                }
                Action::End(connection) => self.tell(connection, ServeMessage::End, context),
                Action::Flush(device, ticket) => self.flush(device, ticket, context),
                Action::Done(ticket) => {
                    // Whoever does not wait any more is not told.
                    let _ = self.desk.waiting.remove(&ticket).map(|waiting| waiting.try_send(()));
                }
            }
        }
        let deadline = self.target.deadline();
        if self.timer.map(|(at, _)| at) != deadline {
            if let Some((_, timer)) = self.timer.take() {
                context.cancel_timer(timer);
            }
            self.timer = deadline.and_then(|at| Some((at, context.set_timer(at, 0)?)));
        }
        if self.stopping && self.sessions.is_empty() {
            context.retire();
        }
    }

    fn tell(&self, connection: ConnectionId, message: ServeMessage, context: &mut Context<'_, M>) {
        if let Some(session) = self.sessions.get(&connection) {
            // Each is the answer to something that the session has sent, or the one end that it is
            // told; so there is room. A session that is gone has nothing at a device.
            let _ = context.reply(*session, message.into());
        }
    }

    fn flush(&mut self, device: DeviceId, ticket: Ticket, context: &mut Context<'_, M>) {
        let Some(Route { pool, object }) = self.desk.routes.get(&device).copied() else {
            return self.target.flushed(ticket, false);
        };
        self.next_flush += 1;
        let id = RequestId(self.next_flush);
        let request =
            Request { id, operation: Operation::Flush, lba: Lba(0), blocks: BlockCount(0) };
        let submit = PoolMessage::Submit { object, request, data: None };
        match context.reply(pool, submit.into()) {
            Ok(()) => drop(self.flushes.insert(id.0, ticket)),
            Err(_) => self.target.flushed(ticket, false),
        }
    }
}

impl<M: CarriesServe> Actor<M> for Hub<M> {
    fn handle(&mut self, event: Event<M>, context: &mut Context<'_, M>) {
        match event {
            Event::Message { from, message } => match TryInto::<ServeMessage>::try_into(message) {
                Ok(message) => self.serve_message(from, message, context),
                Err(message) => {
                    if let Ok(PoolMessage::Answer(answer)) = message.try_into()
                        && let Some(ticket) = self.flushes.remove(&answer.id.0)
                    {
                        self.target.flushed(ticket, answer.result.is_ok());
                    }
                }
            },
            Event::Timer { .. } => {
                self.timer = None;
                self.target.pass(context.now());
            }
            Event::Stop => self.stopping = true,
            Event::Completed(_) | Event::Socket { .. } => {
                unreachable!("the hub begins no I/O")
            }
        }
        self.act(context);
    }
}
