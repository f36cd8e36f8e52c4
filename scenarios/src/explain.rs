//! A scenario in words, for `xks-sim show`.
//!
//! Place on the map: `main` prints it; it reads a [`Scenario`] and nothing else. `topology` and `timeline` draw.

mod timeline;
mod topology;

use crate::report::Style;
use crate::scenario::{Scenario, TlsVersion};
use std::fmt::Write;
use std::time::Duration;

/// What happens, to whom, when it strikes in real life, what must hold, and the file itself. As wide as the terminal, within
/// 40 to 120 columns, and its text at most 100, except for the file. `named` is what `xks-sim run` takes it by.
pub fn explain(scenario: &Scenario, named: &str, style: Style) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_explanation(&mut text, scenario, named, style);
    text
}

fn write_explanation(text: &mut String, scenario: &Scenario, named: &str, style: Style) -> std::fmt::Result {
    let width = style.width.clamp(40, 120);
    writeln!(text, "{}: {}\n", scenario.name, scenario.title)?;
    if !scenario.about.is_empty() {
        writeln!(text, "{}\n", wrap(&scenario.about, width.min(100)))?;
    }
    let tls = match scenario.topology.tls {
        TlsVersion::Off => "plain HTTP",
        TlsVersion::V12 => "TLS 1.2",
        TlsVersion::V13 => "TLS 1.3",
    };
    writeln!(
        text,
        "World     {} KMS hosts, {} ms round trip over {tls}, {} proxies behind a load balancer, {} HSMs",
        scenario.kms.hosts, scenario.link.rtt_ms, scenario.topology.proxies, scenario.topology.hsms
    )?;
    writeln!(
        text,
        "          an HSM operation takes about {} ms; {} at once, {} sessions; the proxy answers within {} ms",
        scenario.hsm.service_ms,
        scenario.hsm.parallel_max,
        scenario.hsm.sessions_max,
        scenario.proxy.deadline_ms
    )?;
    writeln!(text, "\n{}", topology::topology(scenario, style, width))?;
    for (index, service) in scenario.services.iter().enumerate() {
        writeln!(text, "{}{}", if index == 0 { "Services  " } else { "          " }, service.title())?;
    }
    writeln!(text, "Timeline  {} starts, caches fill", clock(Duration::ZERO))?;
    for fault in &scenario.faults {
        let label = fault.label(scenario.topology.hsms, scenario.topology.proxies);
        writeln!(text, "          {} {label}", clock(fault.from))?;
        match fault.to {
            Some(to) => writeln!(text, "          {} … over", clock(to))?,
            None => writeln!(text, "          … and stays so")?,
        }
    }
    writeln!(text, "          {} ends\n", clock(scenario.duration))?;
    let bars = timeline::timeline(scenario, style, width);
    if !bars.is_empty() {
        writeln!(text, "{bars}")?;
    }
    writeln!(text, "Run it with: xks-sim run {named}\n")?;
    writeln!(text, "The file:\n")?;
    scenario.text.lines().try_for_each(|line| writeln!(text, "    {line}"))
}

/// Minutes and seconds, or hours and minutes for the long ones.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 3_600 {
        format!("{:>2}:{:02}", seconds / 60, seconds % 60)
    } else {
        format!("{}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
    }
}

/// Broken between words into lines of at most so many characters, as far as words are shorter.
pub(crate) fn wrap(text: &str, width: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}
