//! Which request of a service's user the work at hand belongs to, told beside the world: nothing in it depends on that.
//!
//! Place on the map: set by each service's front desk while it carries out a request, read by
//! [`recording`](crate::recording) when an event comes in.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// A request of a service's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// Counted from 1 in the order in which requests come in, over all services.
    pub number: u64,
    /// Index of its service in the run's list.
    pub service: usize,
}

/// The request at hand. Clones are the same; each run has its own.
#[derive(Clone, Default)]
pub struct RequestLabel(Rc<Label>);

#[derive(Default)]
struct Label {
    at_hand: Cell<Option<Request>>,
    begun: Cell<u64>,
}

impl RequestLabel {
    /// The request that what happens now belongs to.
    pub fn at_hand(&self) -> Option<Request> {
        self.0.at_hand.get()
    }

    /// A new request of a service.
    pub fn begin(&self, service: usize) -> Request {
        let number = self.0.begun.get() + 1;
        self.0.begun.set(number);
        Request { number, service }
    }

    /// Does something that belongs to a request.
    pub fn during<T>(&self, request: Request, work: impl FnOnce() -> T) -> T {
        let before = self.0.at_hand.replace(Some(request));
        let result = work();
        self.0.at_hand.set(before);
        result
    }

    /// A future that belongs to a request. What it spawns does not.
    pub fn follow<F: Future + Unpin>(&self, request: Request, work: F) -> Followed<F> {
        Followed { label: self.clone(), request, work }
    }
}

/// See [`RequestLabel::follow`].
pub struct Followed<F> {
    label: RequestLabel,
    request: Request,
    work: F,
}

impl<F: Future + Unpin> Future for Followed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let work = &mut this.work;
        this.label.during(this.request, || Pin::new(work).poll(context))
    }
}
