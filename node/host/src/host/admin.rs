//! The admin queue: steps one after another, keep alives, and events.
//!
//! Before: answers on the admin queue, and the Connects of the I/O queues. Next: what was learned.
//!
//! - One step is under way at a time; what an event asks for waits for it, and is remembered once
//!   however often the controller says it.

use fathom_nvme::{Completion, admin::AdminCommand, event::AsyncEvent, log::LogId};
use fathom_units::{Monotonic, Qid};

use super::{Host, State, Token};
use crate::{
    action::{Action, Event},
    config::Purpose,
    error::Error,
    queue::DataTransfer,
    setup::{Learned, Namespace, Next, POLL_INTERVAL, Step, connect_refused, connected},
};

/// How many Asynchronous Event Requests are kept at the controller.
const EVENT_REQUESTS: u16 = 2;

impl Host {
    pub(super) fn begin_step(&mut self, now: Monotonic, step: Step) {
        let (entry, transfer, data) = self.session.command(step, &self.config);
        if !data.is_empty() {
            self.own = data;
        }
        self.step = Some(step);
        self.admin().begin(Token::Step, entry, transfer, Some(now));
    }

    pub(super) fn keep_alive(&mut self, now: Monotonic) {
        self.keep_alive_at = now + self.config.keep_alive / 2;
        if self.keep_alive_under_way {
            // The one before is not answered yet; that it is late will be noticed.
            return;
        }
        self.keep_alive_under_way = true;
        let entry = AdminCommand::KeepAlive.entry();
        self.admin().begin(Token::KeepAlive, entry, DataTransfer::None, Some(now));
    }

    pub(super) fn request_event(&mut self) {
        let entry = AdminCommand::AsyncEventRequest.entry();
        self.admin().begin(Token::EventRequest, entry, DataTransfer::None, None);
    }

    pub(super) fn completed(
        &mut self,
        now: Monotonic,
        queue: Qid,
        token: Token,
        completion: &Completion,
    ) -> Result<(), Error> {
        match token {
            Token::Piece(piece) => {
                self.piece_completed(piece, completion.status);
                self.pump(now);
            }
            Token::Step => self.step_completed(now, completion)?,
            Token::IoConnect => self.io_connected(now, queue, completion)?,
            Token::KeepAlive => {
                self.keep_alive_under_way = false;
                if !completion.status.is_success() {
                    let status = completion.status;
                    return Err(Error::Refused { command: "Keep Alive", status });
                }
            }
            Token::EventRequest => {
                if completion.status.is_success() {
                    self.note_event(AsyncEvent::decode(completion.dword0()));
                    self.request_event();
                    self.next_job(now);
                }
            }
        }
        Ok(())
    }

    pub(super) fn step_completed(
        &mut self,
        now: Monotonic,
        completion: &Completion,
    ) -> Result<(), Error> {
        let step = self.step.expect("a step is under way");
        let data = &self.answer[..];
        let length = match self.session.command(step, &self.config).1 {
            DataTransfer::In(length) => length as usize,
            _ => 0,
        };
        let next = self.session.answer(step, completion, &data[..length], &self.config)?;
        self.step = None;
        if step == Step::Connect {
            self.keep_alive_at = now + self.config.keep_alive / 2;
        }
        match next {
            Next::Step(next) => {
                self.begin_step(now, next);
                if next == Step::Ready {
                    let timeout = self.session.ready_timeout(&self.config);
                    self.state = State::SettingUp { deadline: now + timeout };
                } else if step != Step::Ready {
                    self.extend_deadline(now);
                }
            }
            Next::Poll => {
                self.step = Some(step);
                self.poll_at = Some(now + POLL_INTERVAL);
            }
            Next::Done(learned) => self.learned(now, learned)?,
        }
        Ok(())
    }

    pub(super) fn learned(&mut self, now: Monotonic, learned: Learned) -> Result<(), Error> {
        match learned {
            Learned::Namespace => {
                let Purpose::Io { nsid, .. } = self.config.purpose else {
                    unreachable!("only for I/O")
                };
                let namespace = self.session.namespace(nsid)?;
                self.check_namespace(&namespace)?;
                if self.links.len() == 1 {
                    // The namespace counts from when it can be used.
                    self.extend_deadline(now);
                    (1..=self.session.io_queues).for_each(|queue| self.open(Qid(queue)));
                    return Ok(());
                }
                if self.namespace.is_some_and(|before| before != namespace) {
                    self.actions.push_back(Action::Event(Event::NamespaceChanged(namespace)));
                }
                self.namespace = Some(namespace);
            }
            Learned::Discovery(entries) => {
                self.actions.push_back(Action::Event(Event::Discovered(entries)));
                if matches!(self.state, State::SettingUp { .. }) {
                    self.become_live();
                }
            }
            Learned::Ana(state) => {
                self.actions.push_back(Action::Event(Event::AnaChanged(state)));
            }
            Learned::ShutDown => {
                self.close_all(None);
                self.end(None);
                // A controller that has shut down executes nothing any more.
                self.fenced(now, self.association);
                return Ok(());
            }
        }
        self.next_job(now);
        Ok(())
    }

    /// A namespace that is not the one that it was must not be used in its place.
    pub(super) fn check_namespace(&self, namespace: &Namespace) -> Result<(), Error> {
        let Some(before) = &self.namespace else { return Ok(()) };
        if before.nguid != namespace.nguid || before.uuid != namespace.uuid {
            return Err(Error::Namespace("is another one than before"));
        }
        if before.block_size != namespace.block_size {
            return Err(Error::Namespace("has blocks of another size than before"));
        }
        Ok(())
    }

    pub(super) fn io_connected(
        &mut self,
        now: Monotonic,
        queue: Qid,
        completion: &Completion,
    ) -> Result<(), Error> {
        if !completion.status.is_success() {
            return Err(connect_refused(queue, completion));
        }
        if Some(connected(completion)?) != self.session.controller {
            return Err(Error::Unsupported("connects its queues to different controllers"));
        }
        self.connected_queues += 1;
        self.extend_deadline(now);
        if self.connected_queues == self.session.io_queues
            && matches!(self.state, State::SettingUp { .. })
        {
            let Purpose::Io { nsid, .. } = self.config.purpose else {
                unreachable!("only for I/O")
            };
            let namespace = self.session.namespace(nsid)?;
            self.namespace = Some(namespace);
            self.become_live();
            let association = self.association;
            self.actions.push_back(Action::Event(Event::Live { association, namespace }));
            self.release(now);
        }
        Ok(())
    }

    pub(super) fn become_live(&mut self) {
        self.state = State::Live;
        self.lost_at = None;
        if !self.session.wanted_events().is_empty() {
            for _ in 0..self.session.event_requests(EVENT_REQUESTS) {
                self.request_event();
            }
        }
    }

    pub(super) fn note_event(&mut self, event: AsyncEvent) {
        match event.log_page {
            LogId::CHANGED_NAMESPACES => self.jobs.namespaces = true,
            LogId::ANA if self.session.has_ana() => self.jobs.ana = true,
            LogId::DISCOVERY => self.jobs.discovery = true,
            _ => {}
        }
    }

    /// Begins to look after an event, or the shutting down, when no other step is under way.
    pub(super) fn next_job(&mut self, now: Monotonic) {
        if self.step.is_some() {
            return;
        }
        let is_discovery = self.config.purpose == Purpose::Discovery;
        let step = match self.state {
            State::ShuttingDown { .. } => Step::Shutdown,
            State::Live if self.jobs.namespaces && !is_discovery => {
                self.jobs.namespaces = false;
                Step::ChangedNamespaces
            }
            State::Live if self.jobs.ana && !is_discovery => {
                self.jobs.ana = false;
                Step::Ana
            }
            State::Live if self.jobs.discovery && is_discovery => {
                self.jobs.discovery = false;
                Step::DiscoveryHeader
            }
            _ => return,
        };
        self.begin_step(now, step);
    }
}
