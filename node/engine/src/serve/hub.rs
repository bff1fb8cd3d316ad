//! The target on a loop: it admits, answers, tells, and watches the time.
//!
//! ```text
//!   sessions, threads --> Target --> its actions --> sessions, pools, threads
//!                           ^
//!                      one timer: the next deadline
//!
//!   Close --> gates: listening sockets --> porters: sessions --> done, the hub retires
//!                                             ^ at the deadline: cut
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

use super::message::{CarriesServe, ClosingId, Closure, Route, Routes, Scope, ServeMessage};
use crate::native::message::PoolMessage;

/// What the hub keeps beside the target.
#[derive(Default)]
pub struct Desk {
    /// Where the requests to each device go.
    pub(super) routes: HashMap<DeviceId, Route>,
    /// Who waits for a ticket.
    pub(super) waiting: HashMap<Ticket, SyncSender<()>>,
    /// What takes connections, and what gives them a home.
    pub(super) gates: Vec<Address>,
    pub(super) porters: Vec<Address>,
}

/// The timer of the target; those of closings have the closing's number.
const TARGET_TIMER: u64 = 0;

/// Something is being closed.
struct Closing {
    scope: Scope,
    by: Monotonic,
    timer: Option<TimerKey>,
    /// Gates, and then porters, that have not said that they are done.
    awaited: usize,
    stage: ClosingStage,
    closure: Closure,
    done: SyncSender<Closure>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ClosingStage {
    Listeners,
    Sessions,
    /// Its deadline has passed.
    Cut,
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
    closings: BTreeMap<ClosingId, Closing>,
    next_closing: u64,
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
                closings: BTreeMap::new(),
                next_closing: TARGET_TIMER + 1,
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
            ServeMessage::Drains { connection } => self.target.drains(connection),
            ServeMessage::Aborted { ticket, at_once } => self.target.aborted(ticket, at_once),
            ServeMessage::Lost { connection } => self.target.lost(connection),
            ServeMessage::Finished { connection } => {
                self.target.finished(connection, now);
                self.sessions.remove(&connection);
            }
            ServeMessage::Errand(errand) => errand(&mut self.desk, &mut self.target, now),
            ServeMessage::Close { scope, within, done } => {
                self.begin_closing(scope, now + within, done, context);
            }
            ServeMessage::ListenersClosed { closing, found } => {
                self.closing_goes_on(closing, Closure { found, cut: 0 }, context);
            }
            ServeMessage::SessionsClosed { closing, cut } => {
                self.closing_goes_on(closing, Closure { found: false, cut }, context);
            }
            _ => debug_assert!(false, "a message that no hub understands"),
        }
    }

    // Closing.

    fn begin_closing(
        &mut self,
        scope: Scope,
        by: Monotonic,
        done: SyncSender<Closure>,
        context: &mut Context<'_, M>,
    ) {
        let id = ClosingId(self.next_closing);
        self.next_closing += 1;
        let gates = self.desk.gates.clone();
        let closing = Closing {
            scope,
            by,
            timer: None,
            awaited: gates.len(),
            stage: ClosingStage::Listeners,
            closure: Closure::default(),
            done,
        };
        self.closings.insert(id, closing);
        for gate in gates {
            self.tell_part(gate, id, ServeMessage::CloseListeners { scope, closing: id }, context);
        }
        if self.desk.gates.is_empty() {
            self.drain_sessions(id, context);
        }
    }

    /// Tells a gate or porter. One whose loop has ended has nothing that could be closed.
    fn tell_part(
        &mut self,
        part: Address,
        id: ClosingId,
        message: ServeMessage,
        context: &mut Context<'_, M>,
    ) {
        if context.reply(part, message.into()).is_err() {
            self.closing_goes_on(id, Closure::default(), context);
        }
    }

    /// A gate or porter has done its part, and `part` is what it has to say.
    fn closing_goes_on(&mut self, id: ClosingId, part: Closure, context: &mut Context<'_, M>) {
        let Some(closing) = self.closings.get_mut(&id) else { return };
        closing.closure.found |= part.found;
        closing.closure.cut += part.cut;
        closing.awaited -= 1;
        if closing.awaited > 0 {
            return;
        }
        match closing.stage {
            ClosingStage::Listeners => self.drain_sessions(id, context),
            ClosingStage::Sessions | ClosingStage::Cut => self.end_closing(id, context),
        }
    }

    fn drain_sessions(&mut self, id: ClosingId, context: &mut Context<'_, M>) {
        let porters = self.desk.porters.clone();
        let closing = self.closings.get_mut(&id).expect("it is under way");
        closing.stage = ClosingStage::Sessions;
        closing.awaited = porters.len();
        closing.timer = context.set_timer(closing.by, id.0);
        let (scope, late) = (closing.scope, closing.timer.is_none());
        for porter in porters {
            let drain = ServeMessage::DrainSessions { scope, closing: id };
            self.tell_part(porter, id, drain, context);
        }
        if late {
            // The loop has no room for timers: the deadline has come.
            self.cut_sessions(id, context);
        }
    }

    /// The deadline of a closing has come: what has not finished ends without a word.
    fn cut_sessions(&mut self, id: ClosingId, context: &mut Context<'_, M>) {
        let Some(closing) = self.closings.get_mut(&id) else { return };
        closing.timer = None;
        // Each porter answers to this, too.
        closing.stage = ClosingStage::Cut;
        closing.awaited += self.desk.porters.len();
        let scope = closing.scope;
        for porter in self.desk.porters.clone() {
            let cut = ServeMessage::CutSessions { scope, closing: id };
            self.tell_part(porter, id, cut, context);
        }
    }

    fn end_closing(&mut self, id: ClosingId, context: &mut Context<'_, M>) {
        let Some(closing) = self.closings.remove(&id) else { return };
        if let Some(timer) = closing.timer {
            context.cancel_timer(timer);
        }
        // Whoever does not wait any more is not told.
        let _ = closing.done.try_send(closing.closure);
        if closing.scope.is_none() {
            context.retire();
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
                Action::End(connection) => {
                    self.tell(connection, ServeMessage::End, context);
                }
                Action::Drain(connection) => {
                    self.tell(connection, ServeMessage::Drain, context);
                }
                Action::Abort(connection, cid, ticket) => {
                    let abort = ServeMessage::Abort { cid, ticket };
                    if !self.tell(connection, abort, context) {
                        self.target.aborted(ticket, false);
                    }
                }
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
            self.timer = deadline.and_then(|at| Some((at, context.set_timer(at, TARGET_TIMER)?)));
        }
        if self.stopping && self.sessions.is_empty() {
            context.retire();
        }
    }

    /// Tells a session something. False when it is gone.
    fn tell(
        &self,
        connection: ConnectionId,
        message: ServeMessage,
        context: &mut Context<'_, M>,
    ) -> bool {
        let Some(session) = self.sessions.get(&connection) else { return false };
        // Each is the answer to something that a session has sent, or the one end that it is told; so
        // there is room. A session that is gone has nothing at a device.
        context.reply(*session, message.into()).is_ok()
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
            Event::Timer { token: TARGET_TIMER } => {
                self.timer = None;
                self.target.pass(context.now());
            }
            Event::Timer { token } => self.cut_sessions(ClosingId(token), context),
            Event::Stop => self.stopping = true,
            Event::Completed(_) | Event::Socket { .. } => {
                unreachable!("the hub begins no I/O")
            }
        }
        self.act(context);
    }
}
