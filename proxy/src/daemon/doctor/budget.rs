//! How KMS's 250 ms are spent: network, proxy, HSM (XKS-TIME-1).
//!
//! Place on the map: part of `doctor`.

use super::report::{Report, cut};
use serde_json::json;
use std::fmt;
use std::time::Duration;
use xks_proxy::config::Config;

/// After this KMS gives up, connection set-up included (XKS-TIME-1).
const KMS_PATIENCE_MS: f64 = 250.0;

/// What AWS advises at most between its region and the proxy (XKS-TIME-1).
pub(super) const ADVISED_RTT_MS: f64 = 35.0;

/// The proxy's own work on a request, generously: SigV4, JSON, a turn in its queue.
const PROXY_MS: f64 = 1.0;

/// Quantiles of one kind of call.
#[derive(Clone, Debug)]
pub(super) struct Quantiles {
    pub(super) p50: Duration,
    pub(super) p95: Duration,
    pub(super) max: Duration,
}

impl Quantiles {
    /// `None` without any time.
    fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let at = |share: usize| times.get((times.len() * share).div_ceil(100).max(1) - 1).copied();
        Some(Self { p50: at(50)?, p95: at(95)?, max: at(100)? })
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p95, max] = [self.p50, self.p95, self.max].map(short);
        write!(f, "half within {p50}, 95 % within {p95}, slowest {max}")
    }
}

/// How fast an HSM is.
#[derive(Clone, Debug)]
pub(super) struct Speed {
    pub(super) encrypt: Quantiles,
    pub(super) decrypt: Quantiles,
    /// Only a call that does less was timed.
    guessed: bool,
}

impl Speed {
    pub(super) fn measured(encrypt: Vec<Duration>, decrypt: Vec<Duration>) -> Option<Self> {
        Some(Self { encrypt: Quantiles::of(encrypt)?, decrypt: Quantiles::of(decrypt)?, guessed: false })
    }

    /// Of the shortest call there is; an encryption is two (IV, encryption).
    pub(super) fn at_least(call: Vec<Duration>) -> Option<Self> {
        let one = Quantiles::of(call)?;
        let two = Quantiles { p50: one.p50 * 2, p95: one.p95 * 2, max: one.max * 2 };
        Some(Self { encrypt: two, decrypt: one, guessed: true })
    }

    /// The HSM's part of an Encrypt with the integrity value, which decrypts once more (XKS-ENC-9).
    fn encrypt_and_verify_ms(&self) -> f64 {
        in_ms(self.encrypt.p95 + self.decrypt.p95)
    }
}

fn in_ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn short(time: Duration) -> String {
    if time < Duration::from_millis(1) {
        return format!("{} µs", time.as_micros());
    }
    format!("{:.1} ms", in_ms(time))
}

/// The columns of the table: what stands before the request, in round trips.
const COLUMNS: [(&str, f64); 3] = [("connection kept", 0.0), ("new, TLS 1.3", 2.0), ("new, TLS 1.2", 3.0)];

/// One HSM's share; `rtt_ms` is the network's round trip if it is known.
pub(super) fn check(config: &Config, name: &str, speed: &Speed, rtt_ms: Option<f64>, report: &mut Report) {
    let rtt = rtt_ms.unwrap_or(ADVISED_RTT_MS);
    let (decrypt, verified) = (in_ms(speed.decrypt.p95), speed.encrypt_and_verify_ms());
    let about = if speed.guessed { ", at least" } else { "" };
    let mut table = format!("         {:<34}", format!("{} (95 %{about})", cut(name, 16)));
    COLUMNS.iter().for_each(|(title, _)| table += &format!("{title:>18}"));
    table.push('\n');
    let mut row = |title: &str, cell: &dyn Fn(f64) -> String| {
        table += &format!("         {title:<34}");
        COLUMNS.iter().for_each(|(_, before)| table += &format!("{:>18}", cell(*before)));
        table.push('\n');
    };
    let sum = |before: f64, hsm: f64| (before + 1.0) * rtt + PROXY_MS + hsm;
    row("network", &|before| format!("{} × {rtt} = {:.0} ms", before + 1.0, (before + 1.0) * rtt));
    row("proxy", &|_| format!("{PROXY_MS:.0} ms"));
    row("HSM for a Decrypt", &|_| format!("{decrypt:.1} ms"));
    row("HSM for an Encrypt, verified", &|_| format!("{verified:.1} ms"));
    row("a Decrypt in all", &|before| format!("{:.0} ms", sum(before, decrypt)));
    row("an Encrypt in all", &|before| format!("{:.0} ms", sum(before, verified)));
    row("left of 250 ms", &|before| format!("{:.0} ms", KMS_PATIENCE_MS - sum(before, verified)));
    report.print(&table);

    let slowest = speed.encrypt_and_verify_ms();
    let (warm, cold) = (sum(0.0, slowest), sum(2.0, slowest));
    report.fact(
        &format!("budget of {name}"),
        json!({
            "rtt_ms": rtt,
            "rtt_is_given": rtt_ms.is_some(),
            "proxy_ms": PROXY_MS,
            "hsm_encrypt_p95_ms": in_ms(speed.encrypt.p95),
            "hsm_decrypt_p95_ms": in_ms(speed.decrypt.p95),
            "hsm_is_lower_bound": speed.guessed,
            "encrypt_kept_ms": warm,
            "encrypt_new_tls13_ms": cold,
            "encrypt_new_tls12_ms": sum(3.0, slowest),
        }),
    );
    let deadline = in_ms(config.settings.limits.deadline);
    let told =
        format!("{name}: an Encrypt takes {warm:.0} ms on a kept connection, {cold:.0} ms on a new one");
    let means = "KMS gives up after 250 ms, connection set-up included, and whoever asked KMS sees an error.";
    let nearer =
        "Bring the HSM nearer to the proxy or give it more power, and the proxy nearer to the AWS region.";
    if PROXY_MS + slowest > deadline {
        report.failed(
            "250 ms",
            format!("{name}: the HSM needs {slowest:.0} ms for an Encrypt, deadline_ms is {deadline:.0}"),
            "The proxy answers each such request with an error before the HSM is done.",
            format!("{nearer} Raising deadline_ms helps only as far as KMS waits."),
        );
    } else if warm > KMS_PATIENCE_MS {
        report.failed("250 ms", told, means, nearer);
    } else if cold > KMS_PATIENCE_MS {
        report.warning("250 ms", told, format!("{means} Here each new connection begins with one."), nearer);
    } else if cold > 0.8 * KMS_PATIENCE_MS {
        report.warning(
            "250 ms",
            told,
            format!("{means} A busy HSM or a lost packet is enough for it."),
            nearer,
        );
    } else {
        report.ok("250 ms", told);
    }
}

/// The network's part, which the doctor is told or has to assume.
pub(super) fn check_network(rtt_ms: Option<f64>, report: &mut Report) {
    match rtt_ms {
        None => report.ok(
            "network",
            format!(
                "round trip taken as {ADVISED_RTT_MS} ms, the most AWS advises; give yours with --rtt-ms"
            ),
        ),
        Some(rtt) if rtt > ADVISED_RTT_MS => report.warning(
            "network",
            format!(
                "the round trip of {rtt} ms is longer than the {ADVISED_RTT_MS} ms that AWS advises at most"
            ),
            "A new connection costs three of them (four with TLS 1.2) before the HSM is even asked.",
            "Place the proxy nearer to the AWS region of the key store.",
        ),
        Some(rtt) => report
            .ok("network", format!("round trip of {rtt} ms, within the {ADVISED_RTT_MS} ms AWS advises")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_was_timed() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let quantiles = Quantiles::of(times).unwrap();
        assert_eq!(
            [quantiles.p50, quantiles.p95, quantiles.max].map(|time| time.as_millis()),
            [100, 190, 200]
        );
        assert!(Quantiles::of(Vec::new()).is_none());
        let one = Quantiles::of(vec![Duration::from_millis(7)]).unwrap();
        assert_eq!(one.p50, one.max);
    }
}
