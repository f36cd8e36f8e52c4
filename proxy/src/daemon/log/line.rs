//! One line of the daemon's own: `{"time":…,"kind":"daemon","level":…,"message":…}` and its fields. Audit events have the
//! same `time` and the kind `audit`, so that one filter tells them apart.
//!
//! Place on the map: part of `log`; what `tracing` calls for each of its events.

use serde_json::{Map, Value};
use std::fmt::{self, Debug};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;
use xks_proxy::calendar::rfc3339;
use xks_proxy::env::{Env, SystemEnv};

/// Formats events of `tracing`.
pub(super) struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let message = fields.0.remove("message").unwrap_or_default();
        writeln!(writer, "{}", line(event.metadata().level().as_str(), message, fields.0))
    }
}

/// The line, without its end.
pub(super) fn line(level: &str, message: impl Into<Value>, fields: Map<String, Value>) -> String {
    let message = message.into();
    let time = rfc3339(SystemEnv.now());
    let mut line = format!(r#"{{"time":"{time}","kind":"daemon","level":"{level}","message":{message}"#);
    for (name, value) in fields {
        line += &format!(",{}:{value}", Value::from(name));
    }
    line + "}"
}

struct Fields(Map<String, Value>);

impl Fields {
    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }

    /// Also everything that is given by its `Display`.
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.set(field, format!("{value:?}"));
    }
}
