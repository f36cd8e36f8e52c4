//! The record of one request, which becomes its audit event however the request ends.
//!
//! Place on the map: opened first and closed last by [`http::handle`](crate::http::handle).

use super::{answer, route::Route, since};
use crate::app::App;
use crate::error::{ErrorName, XksError};
use crate::events::{AuditEvent, Stations};
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use std::time::Duration;
use tokio::time::Instant;

/// Emits exactly one event: when closed with an answer, or when dropped without one.
pub(super) struct Record<'a> {
    app: &'a App,
    began: Instant,
    last_lap: Instant,
    emitted: bool,
    pub(super) event: AuditEvent,
}

impl<'a> Record<'a> {
    pub(super) fn open(app: &'a App, began: Instant) -> Self {
        let event = AuditEvent::new(app.env.now(), format!("{:016x}", app.env.noise()));
        Self { app, began, last_lap: began, emitted: false, event }
    }

    /// When the request began to arrive.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn routed(&mut self, route: &Route) {
        self.event.key_store = Some(route.store.name.clone());
        self.event.operation = Some(route.operation);
        self.event.key_id = route.key.as_ref().map(ToString::to_string);
    }

    /// Books the time since the last lap for one station.
    pub(super) fn lap(&mut self, station: fn(&mut Stations) -> &mut Duration) {
        *station(&mut self.event.stations) = since(&mut self.last_lap);
    }

    /// The deadline has passed at the station after the last lap.
    pub(super) fn late(&mut self) -> XksError {
        let late = |detail| XksError::new(ErrorName::DependencyTimeoutException, detail);
        if self.event.access_key_id.is_some() {
            self.lap(|stations| &mut stations.hsm);
            return late("the HSM did not answer before the deadline");
        }
        self.lap(|stations| &mut stations.read);
        late("the body did not arrive before the deadline")
            .with_sentence("The request did not arrive in time.")
    }

    /// Emits the event and gives the answer.
    pub(super) fn close(mut self, outcome: Result<Vec<u8>, XksError>) -> Response<Full<Bytes>> {
        self.event.time = self.app.env.now();
        let response = match outcome {
            Ok(json) => answer(Ok(json), &self.event),
            Err(error) => {
                let response = answer(Err(&error), &self.event);
                self.event.error_name = Some(error.name);
                self.event.ck_rv = error.ck_rv;
                self.event.detail = Some(error.detail);
                response
            }
        };
        self.event.status = response.status().as_u16();
        self.emit();
        response
    }

    fn emit(&mut self) {
        self.emitted = true;
        self.event.stations.total = self.began.elapsed();
        self.app.subscriber.audit(&self.event);
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if !self.emitted {
            self.event.time = self.app.env.now();
            let panicking = std::thread::panicking();
            let why =
                if panicking { "a panic in the proxy" } else { "the caller went away before the answer" };
            self.event.detail = Some(why.into());
            self.emit();
        }
    }
}
