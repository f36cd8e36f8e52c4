//! What the pool's queue holds, and how a thread serves it: one after the other, or, while calls are short, some together.
//!
//! A session may have to look once more at what it used before its results may be given out ([`Device::settle`]). That look
//! costs as much as a short call. So a thread makes the calls that already wait, looks once, and answers them all; what has
//! nothing to settle is answered at once.

use super::{Duration, Instant, oneshot};
use crate::hsm::pkcs11::keeper::{Keeper, Open};
use crate::hsm::{HsmError, HsmErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[cfg(doc)]
use crate::hsm::pkcs11::keeper::Device;

/// The most calls that are settled together: beyond that there is little to save, and the first of them waits for all.
pub(super) const BATCH_MAX: usize = 8;

/// No further call joins when the first is so old: a call that hangs takes those with it that were made before.
const BATCH_AGE_MAX: Duration = Duration::from_millis(1);

/// A call in the queue.
pub(super) struct Job<O: Open> {
    pub(super) deadline: Instant,
    kind: CallKind,
    call: Box<dyn Call<O>>,
}

/// What a call is to the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hsm::pkcs11) enum CallKind {
    /// It uses a key, so how long it takes tells of the HSM.
    UsesKey,
    /// The same, and its result may not be given out before it is settled.
    UsesKeyAndIsSettled,
    /// A library may answer it without asking the HSM.
    Other,
}

impl<O: Open> Job<O> {
    pub(super) fn new(deadline: Instant, kind: CallKind, call: impl Call<O> + 'static) -> Self {
        Self { deadline, kind, call: Box::new(call) }
    }

    /// Nobody waits for it any more.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.deadline <= now || self.call.is_abandoned()
    }

    /// Answers without having run, or in the place of an outcome that may not be given out.
    pub(super) fn refuse(self, error: HsmError) {
        self.call.refuse(error);
    }
}

/// A call with the type of its answer hidden, so that one queue serves all.
pub(super) trait Call<O: Open>: Send {
    fn is_abandoned(&self) -> bool;

    /// Keeps the outcome until it is answered.
    fn run(&mut self, keeper: &mut Keeper<O>);

    /// What it failed with.
    fn error(&self) -> Option<HsmErrorKind>;

    fn answer(self: Box<Self>);

    fn refuse(self: Box<Self>, error: HsmError);
}

/// An operation, and who waits for it.
pub(super) struct Asked<T, F> {
    operation: F,
    outcome: Option<Result<T, HsmError>>,
    answer: oneshot::Sender<Result<T, HsmError>>,
}

impl<T, F> Asked<T, F> {
    pub(super) fn new(operation: F, answer: oneshot::Sender<Result<T, HsmError>>) -> Self {
        Self { operation, outcome: None, answer }
    }
}

impl<O, T, F> Call<O> for Asked<T, F>
where
    O: Open,
    T: Send,
    F: Fn(&mut O::Device) -> Result<T, HsmError> + Send,
{
    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    fn run(&mut self, keeper: &mut Keeper<O>) {
        self.outcome = Some(contain(keeper, |keeper| (self.operation)(keeper.device()?)));
    }

    fn error(&self) -> Option<HsmErrorKind> {
        self.outcome.as_ref().and_then(|outcome| outcome.as_ref().err()).map(|error| error.kind)
    }

    fn answer(self: Box<Self>) {
        if let Some(outcome) = self.outcome {
            let _ = self.answer.send(outcome);
        }
    }

    fn refuse(self: Box<Self>, error: HsmError) {
        let _ = self.answer.send(Err(error));
    }
}

/// Serves `first` and, as long as there are results to settle, what `another` gives. That is told how long the call before
/// took, if it succeeded and used a key; the last time is given back. `begin` is told when a job is begun again, and whether it
/// may be. `held` is empty before and after, and there to spare an allocation.
///
/// What was lost with its session is repeated once, and so is, alone, what could not be settled together with others.
/// Repeating is safe: a repeated encrypt makes its own new IV and nobody has seen the first result, and a decrypt changes
/// nothing.
pub(super) fn serve<O: Open>(
    keeper: &mut Keeper<O>,
    first: Job<O>,
    held: &mut Vec<Job<O>>,
    another: impl Fn(Option<Duration>) -> Option<Job<O>>,
    begin: impl Fn(&Job<O>) -> bool,
) -> Option<Duration> {
    // What is left from before, when nobody waited for it any more, is nobody's concern now.
    keeper.discard();
    let began_at = Instant::now();
    let mut lost = None;
    let mut next = Some(first);
    let mut took = None;
    while let Some(mut job) = next.take() {
        let call_began_at = Instant::now();
        job.call.run(keeper);
        let now = Instant::now();
        let error = job.call.error();
        took = (error.is_none() && job.kind != CallKind::Other).then(|| now - call_began_at);
        match error {
            None if job.kind == CallKind::UsesKeyAndIsSettled => held.push(job),
            Some(HsmErrorKind::SessionLost) => lost = Some(job),
            _ => job.call.answer(),
        }
        let is_full = held.len() == BATCH_MAX || now - began_at >= BATCH_AGE_MAX;
        // A thread whose session was lost takes no work from those that have one.
        if lost.is_none() && keeper.is_ready() && !held.is_empty() && !is_full {
            next = another(took.take());
        }
    }
    if !held.is_empty() {
        match contain(keeper, Keeper::settle) {
            Ok(()) => held.drain(..).for_each(|job| job.call.answer()),
            // Alone: there is nobody else whom it was refused for.
            Err(error) if held.len() == 1 && error.kind != HsmErrorKind::SessionLost => {
                held.drain(..).for_each(|job| job.refuse(error.clone()));
            }
            Err(error) => held.drain(..).for_each(|job| repeat(keeper, job, Some(&error), &begin)),
        }
    }
    if let Some(job) = lost {
        repeat(keeper, job, None, &begin);
    }
    took
}

/// Runs a job again, by itself, if somebody still waits for it and `begin` allows. If not, its own error is the answer, or
/// `error`, for which its result may not be given out.
fn repeat<O: Open>(
    keeper: &mut Keeper<O>,
    mut job: Job<O>,
    error: Option<&HsmError>,
    begin: impl Fn(&Job<O>) -> bool,
) {
    keeper.discard();
    if job.is_stale(Instant::now()) || !begin(&job) {
        return match error {
            Some(error) => job.refuse(error.clone()),
            None => job.call.answer(),
        };
    }
    job.call.run(keeper);
    if job.kind != CallKind::UsesKeyAndIsSettled || job.call.error().is_some() {
        return job.call.answer();
    }
    match contain(keeper, Keeper::settle) {
        Ok(()) => job.call.answer(),
        Err(error) => job.refuse(error),
    }
}

/// A panic in `work` costs its request and the session, and not the thread: nobody would hear of its end, and it would
/// count as set aside for as long as the pool lives.
pub(super) fn contain<O: Open, T>(
    keeper: &mut Keeper<O>,
    work: impl FnOnce(&mut Keeper<O>) -> Result<T, HsmError>,
) -> Result<T, HsmError> {
    // Safe to go on after: what a panic may have left half done is the device, which is given up.
    catch_unwind(AssertUnwindSafe(|| work(keeper))).unwrap_or_else(|_| {
        keeper.give_up();
        Err(HsmError::new(HsmErrorKind::Failed, "a panic below the thread of an HSM session"))
    })
}
