//! The engine of a model: the calls of all threads share its steps.
//!
//! One thread at a time is the driver: it computes steps for all calls until its own call has the requested
//! steps, and leaves the events of other calls in their mailboxes. The other threads sleep and poll their
//! hooks; when the driver leaves, one of them takes over. The lock of the desk is held only briefly, never
//! while a hook or a processor runs.

use super::mailbox::Mailbox;
use super::running_batch::CallState;
use super::scheduler::Scheduler;
use super::sequence::{FinishReason, Prompt};
use crate::error::{Error, Result};
use crate::model::prefix::{self, Summary};
use crate::model::{Model, Session};
use crate::threads::{HOOK_INTERVAL, Hook, PerProcess, nested_call};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// Maximum time for which a driver keeps the model's threads while other callers wait for them.
const MAX_TURN: Duration = Duration::from_millis(5);

/// Generates with a model for calls of any thread.
pub struct Engine {
    pub(super) model: Arc<Model>,
    prefix_bytes: AtomicUsize,
    /// A forked child gets a new one: the parent's may be locked or driven by threads that do not exist in
    /// the child.
    desk: PerProcess<Mutex<Desk>>,
}

/// Requests of calls to the scheduler.
pub(super) enum Command {
    Add(u64, Box<CallState>, Vec<Prompt>),
    Stop(u64, usize, FinishReason),
    Remove(u64),
    LimitPrefixes(usize),
}

/// State shared by calls and the driver.
#[derive(Default)]
pub(super) struct Desk {
    driver: Option<ThreadId>,
    /// The call that drives next, if the last driver gave way to it.
    reserved: Option<u64>,
    /// `None` while a driver holds it, and before the first call.
    scheduler: Option<Box<Scheduler>>,
    inbox: Vec<Command>,
    pub calls: HashMap<u64, Mailbox>,
    next: u64,
    prefixes: Summary,
}

impl Desk {
    /// Whether a call may drive now.
    fn is_free_for(&mut self, call: u64) -> bool {
        if let Some(next) = self.reserved.filter(|&next| next != call) {
            if self.calls.get(&next).is_some_and(Mailbox::must_drive) {
                return false;
            }
            self.reserved = None;
        }
        self.driver.is_none()
    }

    /// Whether there is a scheduler, at the desk or with the driver.
    fn has_scheduler(&self) -> bool {
        self.scheduler.is_some() || self.driver.is_some()
    }

    /// Removes a call, with its commands if they have not reached the scheduler: without a driver the inbox
    /// is not emptied.
    fn forget(&mut self, call: u64) {
        let own = |command: &Command| match command {
            Command::Add(of, ..) | Command::Stop(of, ..) | Command::Remove(of) => *of == call,
            Command::LimitPrefixes(_) => false,
        };
        let waits = |command: &Command| matches!(command, Command::Add(of, ..) if *of == call);
        if self.inbox.iter().any(waits) {
            self.inbox.retain(|command| !own(command));
        } else if self.has_scheduler() {
            self.inbox.push(Command::Remove(call));
        }
    }

    /// The number of a new call.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Engine {
    pub fn new(model: Arc<Model>) -> Arc<Engine> {
        let prefix_bytes = AtomicUsize::new(prefix::DEFAULT_BYTES);
        Arc::new(Engine { model, prefix_bytes, desk: PerProcess::new(Mutex::default()) })
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        // Only a failed allocation can panic while it is locked.
        self.desk.get(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the bound of the prefix cache in bytes, and clears it.
    pub fn limit_prefixes(&self, bytes: usize) {
        self.prefix_bytes.store(bytes, Ordering::Relaxed);
        let mut desk = self.desk();
        if desk.has_scheduler() {
            self.post(&mut desk, Command::LimitPrefixes(bytes));
        }
    }

    /// Contents of the prefix cache.
    pub fn prefixes(&self) -> Summary {
        self.desk().prefixes
    }

    /// Queues a command for the scheduler; runs it at once if there is no driver.
    pub(super) fn post(&self, desk: &mut Desk, command: Command) {
        match command {
            Command::Remove(call) => desk.forget(call),
            command => desk.inbox.push(command),
        }
        if desk.driver.is_none()
            && let Some(mut scheduler) = desk.scheduler.take()
        {
            drain(desk, &mut scheduler);
            desk.scheduler = Some(scheduler);
        }
    }

    /// Computes steps, or waits while another thread does, until the call has the requested steps.
    ///
    /// # Errors
    /// The hook interrupts, the call has failed, or it was made from inside a step.
    pub(super) fn run(&self, call: u64, hook: Hook<'_>) -> Result<()> {
        let own = thread::current().id();
        let mut desk = self.desk();
        loop {
            let Some(mailbox) = desk.calls.get(&call) else { return Ok(()) };
            if mailbox.satisfied() {
                return mailbox.error.clone().map_or(Ok(()), Err);
            }
            let woken = Arc::clone(&mailbox.woken);
            if desk.is_free_for(call) {
                let scheduler = match desk.scheduler.take() {
                    Some(scheduler) => scheduler,
                    None => {
                        let bytes = self.prefix_bytes.load(Ordering::Relaxed);
                        Box::new(Scheduler::new(Arc::clone(&self.model), bytes)?)
                    }
                };
                (desk.driver, desk.reserved) = (Some(own), None);
                drop(desk);
                Seat { engine: self, own, call, stepped: false, scheduler: Some(scheduler) }.drive(hook)?;
                desk = self.desk();
                continue;
            }
            if desk.driver == Some(own) || self.model.held_by_this_thread() {
                return Err(nested_call());
            }
            desk = woken.wait_timeout(desk, HOOK_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
            if desk.calls.get(&call).is_some_and(|mailbox| !mailbox.satisfied()) {
                drop(desk); // the hook may take a while
                if hook() {
                    return Err(Error::Interrupted);
                }
                desk = self.desk();
            }
        }
    }
}

/// Applies the commands of the inbox.
fn drain(desk: &mut Desk, scheduler: &mut Scheduler) {
    let Desk { inbox, calls, prefixes, .. } = desk;
    for command in inbox.drain(..) {
        match command {
            Command::Add(call, call_state, prompts) => {
                if let Some(mailbox) = calls.get_mut(&call) {
                    mailbox.scheduled = true;
                    scheduler.add(call, *call_state, prompts);
                }
            }
            Command::Stop(call, sequence, reason) => scheduler.stop(call, sequence, reason),
            Command::Remove(call) => scheduler.remove(call),
            Command::LimitPrefixes(bytes) => scheduler.limit_prefixes(bytes),
        }
    }
    scheduler.state.report.deliver(calls);
    *prefixes = scheduler.prefixes();
}

/// The driver's role; dropping it returns the scheduler to the desk.
struct Seat<'a> {
    engine: &'a Engine,
    own: ThreadId,
    call: u64,
    /// Whether a step was computed.
    stepped: bool,
    /// None after a panic.
    scheduler: Option<Box<Scheduler>>,
}

impl Seat<'_> {
    fn drive(&mut self, hook: Hook<'_>) -> Result<()> {
        loop {
            let model = &self.engine.model;
            if model.session(hook, |s| self.turn(s))? {
                return Ok(());
            }
        }
    }

    /// Computes steps; false if other callers wait for the model's threads.
    fn turn(&mut self, s: &mut Session<'_>) -> Result<bool> {
        let begun = Instant::now();
        while self.exchange() {
            let Some(scheduler) = &mut self.scheduler else { return Ok(true) };
            match catch_unwind(AssertUnwindSafe(|| scheduler.step(s))) {
                Ok(result) => result?,
                Err(panic) => {
                    self.abandon(&Error::of_panic(&*panic));
                    return Ok(true);
                }
            }
            self.stepped = true;
            if begun.elapsed() >= MAX_TURN && s.team.contended() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Delivers the results of the last step and runs new commands; returns whether this call needs another
    /// step.
    fn exchange(&mut self) -> bool {
        let Some(scheduler) = &mut self.scheduler else { return false };
        let mut desk = self.engine.desk();
        let desk = &mut *desk;
        // Before the commands: a call that leaves keeps what it has computed.
        scheduler.state.report.deliver(&mut desk.calls);
        drain(desk, scheduler);
        for (call, call_state) in &mut scheduler.state.call_states {
            call_state.active = desk.calls.get(call).is_some_and(|mailbox| mailbox.takes_part(self.own));
        }
        for (&call, mailbox) in desk.calls.iter().filter(|(call, _)| **call != self.call) {
            if mailbox.wanted.is_some() && mailbox.satisfied() {
                mailbox.woken.notify_one();
            }
            // After at least one step, so that two calls that must drive take turns.
            if self.stepped && mailbox.must_drive() {
                desk.reserved = Some(call);
            }
        }
        desk.calls.get(&self.call).is_some_and(|mailbox| !mailbox.satisfied()) && desk.reserved.is_none()
    }

    /// After a panic in a step: fails its calls and drops the scheduler; the next call starts a new one.
    fn abandon(&mut self, error: &Error) {
        let lost = self.scheduler.take();
        let mut desk = self.engine.desk();
        for mailbox in desk.calls.values_mut().filter(|mailbox| mailbox.scheduled) {
            mailbox.error.get_or_insert_with(|| error.clone());
        }
        desk.prefixes = Summary::default();
        drop(desk);
        drop(lost);
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut desk = self.engine.desk();
        let desk = &mut *desk;
        if let Some(mut scheduler) = self.scheduler.take() {
            drain(desk, &mut scheduler);
            desk.scheduler = Some(scheduler);
        }
        desk.driver = None;
        if let Some(next) = desk.reserved.and_then(|call| desk.calls.get(&call)) {
            next.woken.notify_one();
            return;
        }
        // A waiting thread becomes the driver.
        let next = |(call, mailbox): &(&u64, &Mailbox)| **call != self.call && mailbox.wanted.is_some();
        for (_, mailbox) in desk.calls.iter().filter(next) {
            mailbox.woken.notify_one();
            if !mailbox.satisfied() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests;
