//! The timeline of a scenario file, `[[fault]]`: from keys to checked [`Fault`]s.

use super::place::nearest;
use super::sections::{LoadBalancerFile, ProxyFile, Topology};
use crate::fault::{CKR_NAMES, Fault, FaultKind, HsmFault, LinkChange, ckr_by_name};
use crate::net::fault::Ways;
use serde::Deserialize;
use std::time::Duration;

/// One `[[fault]]` as it is written. Which keys a kind takes stands in [`keys_of`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFault {
    kind: RawFaultKind,
    from_s: f64,
    to_s: Option<f64>,
    ramp_s: Option<f64>,
    repeat_every_s: Option<f64>,
    repeats: Option<u32>,
    #[serde(default)]
    target: RawTarget,
    factor: Option<f64>,
    ckr: Option<String>,
    rate: Option<f64>,
    extra_ms: Option<f64>,
    way: Option<RawWay>,
    loss: Option<f64>,
    share: Option<f64>,
    bandwidth_kbit_per_s: Option<f64>,
    idle_s: Option<f64>,
    sessions_max: Option<usize>,
    restart_s: Option<f64>,
    drain_s: Option<f64>,
    skew_s: Option<f64>,
    overlap: Option<bool>,
    rate_per_s: Option<f64>,
    zone: Option<usize>,
}

/// `kind` of a fault.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum RawFaultKind {
    HsmDown,
    HsmSlow,
    HsmError,
    HsmHang,
    HsmSessions,
    HsmBitFlips,
    HsmPartition,
    HsmLatency,
    HsmLoss,
    HsmIdleDrop,
    HsmReset,
    Partition,
    Latency,
    Loss,
    Bandwidth,
    Duplication,
    Reordering,
    IdleDrop,
    ConnectionReset,
    ConnectionRefused,
    SynDrop,
    DnsFailure,
    ProxyCrash,
    ProxyRestart,
    RollingDeploy,
    ProxyStarved,
    KillSwitch,
    ClockSkew,
    CertificateExpired,
    ClientCertificateDemanded,
    CredentialRotation,
    ExternalKeyDisabled,
    ExternalKeyDeleted,
    KmsKeyDisabled,
    KmsKeyPendingDeletion,
    KeyStoreDisconnected,
    QuotaBurst,
    ZoneLoss,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum RawWay {
    Both,
    There,
    Back,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(untagged, expecting = "target is \"all\" or a list of numbers such as [0]")]
enum RawTarget {
    #[default]
    Unset,
    Word(String),
    Numbers(Vec<usize>),
}

/// The most times that one fault repeats.
const REPEATS_MAX: u32 = 1_000;

/// The keys of a kind besides those that every kind has.
fn keys_of(kind: RawFaultKind) -> &'static [&'static str] {
    use RawFaultKind as Kind;
    match kind {
        Kind::HsmSlow | Kind::ProxyStarved => &["target", "factor"],
        Kind::HsmError => &["target", "ckr", "rate"],
        Kind::HsmSessions => &["target", "sessions_max"],
        Kind::HsmBitFlips => &["target", "rate"],
        Kind::HsmPartition | Kind::Partition => &["target", "way"],
        Kind::HsmLatency | Kind::Latency => &["target", "extra_ms"],
        Kind::HsmLoss | Kind::Loss => &["target", "loss"],
        Kind::Bandwidth => &["target", "bandwidth_kbit_per_s"],
        Kind::Duplication | Kind::Reordering => &["target", "share"],
        Kind::HsmIdleDrop | Kind::IdleDrop => &["target", "idle_s"],
        Kind::HsmDown
        | Kind::HsmHang
        | Kind::HsmReset
        | Kind::ConnectionReset
        | Kind::ConnectionRefused
        | Kind::SynDrop
        | Kind::ProxyCrash
        | Kind::ProxyRestart => &["target"],
        Kind::RollingDeploy => &["restart_s", "drain_s"],
        Kind::ClockSkew => &["target", "skew_s"],
        Kind::CredentialRotation => &["overlap"],
        Kind::QuotaBurst => &["rate_per_s"],
        Kind::ZoneLoss => &["zone"],
        Kind::DnsFailure
        | Kind::KillSwitch
        | Kind::CertificateExpired
        | Kind::ClientCertificateDemanded
        | Kind::ExternalKeyDisabled
        | Kind::ExternalKeyDeleted
        | Kind::KmsKeyDisabled
        | Kind::KmsKeyPendingDeletion
        | Kind::KeyStoreDisconnected => &[],
    }
}

impl RawFault {
    /// The keys given besides those that every kind has.
    fn given(&self) -> Vec<&'static str> {
        let keys = [
            ("target", !matches!(self.target, RawTarget::Unset)),
            ("factor", self.factor.is_some()),
            ("ckr", self.ckr.is_some()),
            ("rate", self.rate.is_some()),
            ("extra_ms", self.extra_ms.is_some()),
            ("way", self.way.is_some()),
            ("loss", self.loss.is_some()),
            ("share", self.share.is_some()),
            ("bandwidth_kbit_per_s", self.bandwidth_kbit_per_s.is_some()),
            ("idle_s", self.idle_s.is_some()),
            ("sessions_max", self.sessions_max.is_some()),
            ("restart_s", self.restart_s.is_some()),
            ("drain_s", self.drain_s.is_some()),
            ("skew_s", self.skew_s.is_some()),
            ("overlap", self.overlap.is_some()),
            ("rate_per_s", self.rate_per_s.is_some()),
            ("zone", self.zone.is_some()),
        ];
        keys.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect()
    }
}

/// What else of the scenario a fault has to fit.
pub(super) struct Around<'a> {
    pub(super) duration_s: f64,
    pub(super) topology: &'a Topology,
    pub(super) proxy: &'a ProxyFile,
    pub(super) load_balancer: &'a LoadBalancerFile,
    /// Whether the HSMs are reached over a network of their own.
    pub(super) hsm_link: bool,
}

/// One fault for each time it strikes. The message begins with the key that it is about, where there is one.
pub(super) fn check(raw: &RawFault, around: &Around<'_>) -> Result<Vec<Fault>, String> {
    let duration_s = around.duration_s;
    if !(raw.from_s >= 0.0 && raw.from_s < duration_s) {
        return Err(format!("from_s is between 0 and the run's {duration_s} s, not {}", raw.from_s));
    }
    if let Some(to_s) = raw.to_s
        && !(to_s > raw.from_s && to_s <= duration_s)
    {
        return Err(format!(
            "to_s is after from_s = {} and at most the run's {duration_s} s, not {to_s}",
            raw.from_s
        ));
    }
    let (name, takes) = (name(raw.kind), keys_of(raw.kind));
    if let Some(stray) = raw.given().into_iter().find(|key| !takes.contains(key)) {
        let takes = if takes.is_empty() { "no key of its own".into() } else { takes.join(", ") };
        return Err(format!("{stray} is no key of kind {name}, which takes {takes}"));
    }
    let kind = kind(raw, around, &name)?;
    let length_s = raw.to_s.unwrap_or(duration_s) - raw.from_s;
    if let FaultKind::RollingDeploy { restart, drain } = &kind {
        let needed_s = deploy_s(restart.as_secs_f64(), drain.as_secs_f64(), around);
        // As sums of floating-point numbers go.
        if needed_s > length_s + 1e-6 {
            return Err(format!(
                "{}: {} take {} s to be deployed one after the other{}, and the fault lasts {} s: let it end at {} s or later{}",
                if raw.to_s.is_some() { "to_s" } else { "from_s" },
                count_of(around.topology.proxies, "proxy", "proxies"),
                seconds(needed_s),
                if drain.is_zero() { "" } else { ", until each passes its checks again" },
                seconds(length_s),
                seconds(raw.from_s + needed_s),
                if raw.from_s + needed_s > duration_s { ", and the run too" } else { "" },
            ));
        }
    }
    let ramp_s = raw.ramp_s.unwrap_or(0.0);
    if !(ramp_s >= 0.0 && ramp_s <= length_s) {
        return Err(format!("ramp_s is between 0 and the fault's {length_s} s, not {ramp_s}"));
    }
    if ramp_s > 0.0 && !kind.can_grow() {
        return Err(format!("ramp_s: kind {name} is there or it is not; remove ramp_s"));
    }
    let strikes = repeats(raw, length_s, duration_s)?;
    let fault = |from_s: f64| Fault {
        from: Duration::from_secs_f64(from_s),
        to: raw.to_s.map(|to_s| Duration::from_secs_f64(from_s + (to_s - raw.from_s))),
        ramp: Duration::from_secs_f64(ramp_s),
        kind: kind.clone(),
    };
    Ok(strikes.into_iter().map(fault).collect())
}

/// A sum of seconds without what is left over in its last places.
fn seconds(sum: f64) -> f64 {
    (sum * 1e3).round() / 1e3
}

/// How long a rolling deploy takes at least, in seconds: each proxy in turn is drained, is away, and passes as many checks
/// of the load balancer as it takes, unless it was never taken out.
fn deploy_s(restart_s: f64, drain_s: f64, around: &Around<'_>) -> f64 {
    let balancer = around.load_balancer;
    let checks_s =
        if drain_s > 0.0 { balancer.check_interval_s * f64::from(balancer.healthy_after) } else { 0.0 };
    #[expect(clippy::cast_precision_loss, reason = "at most 16")]
    let proxies = around.topology.proxies as f64;
    proxies * (drain_s + restart_s + checks_s)
}

fn count_of(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// When it strikes.
fn repeats(raw: &RawFault, length_s: f64, duration_s: f64) -> Result<Vec<f64>, String> {
    match (raw.repeat_every_s, raw.repeats) {
        (None, None) => Ok(vec![raw.from_s]),
        (Some(_), None) => Err("repeat_every_s needs repeats, how often it strikes in all".into()),
        (None, Some(_)) => Err("repeats needs repeat_every_s, from one beginning to the next".into()),
        (Some(_), Some(_)) if raw.to_s.is_none() => {
            Err("repeat_every_s needs to_s: a fault without an end cannot begin again".into())
        }
        (Some(every_s), Some(_)) if !(every_s > length_s && every_s <= duration_s) => Err(format!(
            "repeat_every_s is more than the fault's own {length_s} s and at most the run's {duration_s} s, not {every_s}"
        )),
        (Some(_), Some(repeats)) if !(2..=REPEATS_MAX).contains(&repeats) => {
            Err(format!("repeats is between 2 and {REPEATS_MAX}, not {repeats}"))
        }
        (Some(every_s), Some(repeats)) => {
            let starts: Vec<f64> = (0..repeats).map(|n| raw.from_s + every_s * f64::from(n)).collect();
            match starts.last() {
                Some(last) if last + length_s > duration_s => Err(format!(
                    "repeats = {repeats}: the last would end at {} s, after the run's {duration_s} s",
                    last + length_s
                )),
                _ => Ok(starts),
            }
        }
    }
}

/// Why two faults cannot both happen as they are written, with what to do about it; `other` says which the other one
/// is. What can be held by two faults at once is counted by `world`, and no matter of this.
pub(super) fn clash(fault: &Fault, another: &Fault, other: &str) -> Option<String> {
    use FaultKind as Kind;
    let end = |fault: &Fault| fault.to.unwrap_or(Duration::MAX);
    // What ends when the other begins would do so in either order.
    let touch = fault.from <= end(another) && another.from <= end(fault);
    match (&fault.kind, &another.kind) {
        (Kind::ExternalKeyDeleted, Kind::ExternalKeyDeleted) => {
            Some(format!("a destroyed key cannot be destroyed again, as {other} does: remove one"))
        }
        (Kind::ExternalKeyDeleted, Kind::ExternalKeyDisabled) if end(another) > fault.from => Some(format!(
            "a destroyed key is neither disabled nor enabled any more: {other} disables it; end that by {} s, or remove it",
            fault.from.as_secs_f64()
        )),
        (Kind::ExternalKeyDisabled, Kind::ExternalKeyDeleted) if end(fault) > another.from => Some(format!(
            "to_s: a destroyed key is neither disabled nor enabled any more, and {other} destroys it; end this by {} s, or \
             remove it",
            another.from.as_secs_f64()
        )),
        (Kind::KmsKeyPendingDeletion, Kind::KmsKeyPendingDeletion | Kind::KmsKeyDisabled)
        | (Kind::KmsKeyDisabled, Kind::KmsKeyPendingDeletion)
            if touch =>
        {
            Some(format!(
                "KMS disables, enables or deletes no key whose deletion is pending (KMSInvalidStateException), and {other} is \
                 on at the same time: let one begin after the other has ended"
            ))
        }
        (Kind::CredentialRotation { .. }, Kind::CredentialRotation { .. }) if touch => Some(format!(
            "a rotation ends before the next one begins, and {other} is on at the same time: let one begin after the other \
             has ended"
        )),
        _ => None,
    }
}

/// A number that a key must hold, within bounds.
fn number(
    key: &str,
    value: Option<f64>,
    kind: &str,
    such_as: &str,
    allowed: impl Fn(f64) -> bool,
    bounds: &str,
) -> Result<f64, String> {
    let value = value.ok_or_else(|| format!("kind {kind} needs {key}, such as {key} = {such_as}"))?;
    if allowed(value) { Ok(value) } else { Err(format!("{key} is {bounds}, not {value}")) }
}

fn kind(raw: &RawFault, around: &Around<'_>, name: &str) -> Result<FaultKind, String> {
    use RawFaultKind as Kind;
    let topology = around.topology;
    let hsms = || targets(&raw.target, topology.hsms, "HSM");
    let proxies = || targets(&raw.target, topology.proxies, "proxy");
    let hsm = |fault: HsmFault| Ok(FaultKind::Hsm { hsms: hsms()?, fault });
    let link = |change: LinkChange| Ok(FaultKind::Link { proxies: proxies()?, change });
    let hsm_link = |change: LinkChange| {
        if around.hsm_link {
            Ok(FaultKind::HsmLink { hsms: hsms()?, change })
        } else {
            Err(format!("kind {name} needs a network between proxies and HSMs: add a section [hsm_link]"))
        }
    };
    let factor = || {
        let allowed = |factor: f64| factor > 1.0 && factor <= 1e6;
        number("factor", raw.factor, name, "20", allowed, "above 1 and at most 1,000,000")
    };
    let part = |key: &str, value: Option<f64>, such_as: &str| {
        number(key, value, name, such_as, |share| share > 0.0 && share <= 1.0, "above 0 and at most 1")
    };
    let seconds = |key: &str, value: Option<f64>, such_as: &str| {
        let allowed = |s: f64| s > 0.0 && s <= 86_400.0;
        number(key, value, name, such_as, allowed, "above 0 and at most 86,400").map(Duration::from_secs_f64)
    };
    let extra = || {
        let allowed = |ms: f64| ms > 0.0 && ms <= 60_000.0;
        let ms = number("extra_ms", raw.extra_ms, name, "100", allowed, "above 0 and at most 60,000")?;
        if ms / 1_000.0 >= around.duration_s {
            return Err(format!(
                "extra_ms = {ms} is as long as the run or longer, {} s: no call would ever end",
                around.duration_s
            ));
        }
        Ok(Duration::from_secs_f64(ms / 1_000.0))
    };
    let way = match raw.way {
        None | Some(RawWay::Both) => Ways::Both,
        Some(RawWay::There) => Ways::There,
        Some(RawWay::Back) => Ways::Back,
    };
    match raw.kind {
        Kind::HsmDown => hsm(HsmFault::Down),
        Kind::HsmHang => hsm(HsmFault::Hang),
        Kind::HsmSlow => hsm(HsmFault::Slow { factor: factor()? }),
        Kind::HsmError => {
            let (name, ckr) = return_value(raw.ckr.as_deref().unwrap_or("CKR_DEVICE_ERROR"))?;
            hsm(HsmFault::Error { name, ckr, rate: part("rate", raw.rate.or(Some(1.0)), "0.5")? })
        }
        Kind::HsmSessions => {
            let sessions_max =
                raw.sessions_max.ok_or("kind hsm-sessions needs sessions_max, the sessions that are left")?;
            hsm(HsmFault::Sessions { sessions_max })
        }
        Kind::HsmBitFlips => hsm(HsmFault::BitFlips { rate: part("rate", raw.rate, "0.001")? }),
        Kind::HsmPartition => hsm_link(LinkChange::Cut(way)),
        Kind::HsmLatency => hsm_link(LinkChange::Delay(extra()?)),
        Kind::HsmLoss => hsm_link(LinkChange::Loss(part("loss", raw.loss, "0.05")?)),
        Kind::HsmIdleDrop => hsm_link(LinkChange::IdleDrop(seconds("idle_s", raw.idle_s, "20")?)),
        Kind::HsmReset => hsm_link(LinkChange::Reset),
        Kind::Partition => link(LinkChange::Cut(way)),
        Kind::Latency => link(LinkChange::Delay(extra()?)),
        Kind::Loss => link(LinkChange::Loss(part("loss", raw.loss, "0.05")?)),
        Kind::Bandwidth => {
            let allowed = |kbit: f64| (1.0..=1e8).contains(&kbit);
            let key = "bandwidth_kbit_per_s";
            let kbit =
                number(key, raw.bandwidth_kbit_per_s, name, "2000", allowed, "between 1 and 100,000,000")?;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 100 Gbit/s")]
            link(LinkChange::Bandwidth((kbit * 1_000.0) as u64))
        }
        Kind::Duplication => link(LinkChange::Duplication(part("share", raw.share, "0.05")?)),
        Kind::Reordering => link(LinkChange::Reordering(part("share", raw.share, "0.05")?)),
        Kind::IdleDrop => link(LinkChange::IdleDrop(seconds("idle_s", raw.idle_s, "20")?)),
        Kind::ConnectionReset => link(LinkChange::Reset),
        Kind::ConnectionRefused => link(LinkChange::Refused),
        Kind::SynDrop => link(LinkChange::SynDrop),
        Kind::DnsFailure => Ok(FaultKind::DnsFailure),
        Kind::ProxyCrash => Ok(FaultKind::ProxyCrash { proxies: proxies()? }),
        Kind::ProxyRestart => Ok(FaultKind::ProxyRestart { proxies: proxies()? }),
        Kind::RollingDeploy => {
            let restart = seconds("restart_s", raw.restart_s.or(Some(10.0)), "10")?;
            let drain_s = raw.drain_s.unwrap_or(30.0);
            if !(0.0..=3_600.0).contains(&drain_s) {
                return Err(format!("drain_s is between 0 and 3,600, not {drain_s}"));
            }
            Ok(FaultKind::RollingDeploy { restart, drain: Duration::from_secs_f64(drain_s) })
        }
        Kind::ProxyStarved if around.proxy.cpu_request_us <= 0.0 => Err(format!(
            "kind {name} needs proxies whose work takes processor time, which [proxy] cpu_request_us = 0 turns off: give it \
             a value above 0, such as 50"
        )),
        Kind::ProxyStarved => Ok(FaultKind::ProxyStarved { proxies: proxies()?, factor: factor()? }),
        Kind::KillSwitch => Ok(FaultKind::KillSwitch),
        Kind::ClockSkew => {
            let allowed = |s: f64| s != 0.0 && s.abs() <= 86_400.0;
            let bounds = "between -86,400 and 86,400 and not 0";
            let skew_s = number("skew_s", raw.skew_s, name, "400", allowed, bounds)?;
            Ok(FaultKind::ClockSkew { proxies: proxies()?, skew_s })
        }
        Kind::CertificateExpired | Kind::ClientCertificateDemanded
            if topology.tls == super::TlsVersion::Off =>
        {
            Err(format!("kind {name} needs TLS, which [topology] tls = \"off\" turns off"))
        }
        Kind::CertificateExpired => Ok(FaultKind::CertificateExpired),
        Kind::ClientCertificateDemanded => Ok(FaultKind::ClientCertificateDemanded),
        Kind::CredentialRotation => {
            Ok(FaultKind::CredentialRotation { overlap: raw.overlap.unwrap_or(true) })
        }
        Kind::ExternalKeyDisabled => Ok(FaultKind::ExternalKeyDisabled),
        Kind::ExternalKeyDeleted if raw.to_s.is_some() => {
            Err("to_s: a destroyed key does not come back; remove to_s".into())
        }
        Kind::ExternalKeyDeleted => Ok(FaultKind::ExternalKeyDeleted),
        Kind::KmsKeyDisabled => Ok(FaultKind::KmsKeyDisabled),
        Kind::KmsKeyPendingDeletion => Ok(FaultKind::KmsKeyPendingDeletion),
        Kind::KeyStoreDisconnected => Ok(FaultKind::KeyStoreDisconnected),
        Kind::QuotaBurst => {
            let allowed = |rate: f64| rate > 0.0 && rate <= 100_000.0;
            let bounds = "above 0 and at most 100,000";
            let rate_per_s = number("rate_per_s", raw.rate_per_s, name, "2500", allowed, bounds)?;
            Ok(FaultKind::QuotaBurst { rate_per_s })
        }
        Kind::ZoneLoss => {
            let zone = raw.zone.ok_or("kind zone-loss needs zone, such as zone = 0")?;
            if topology.zones < 2 {
                return Err("zone: there is only one; give [topology] zones = 2 or more".into());
            }
            if zone >= topology.zones {
                return Err(format!(
                    "zone: there is no zone {zone}: they are numbered 0 to {}",
                    topology.zones - 1
                ));
            }
            Ok(FaultKind::ZoneLoss { zone })
        }
    }
}

fn return_value(name: &str) -> Result<(String, u64), String> {
    let ckr = ckr_by_name(name).ok_or_else(|| {
        let near = nearest(name, CKR_NAMES.iter().map(|(name, _)| *name));
        let near = near.unwrap_or("CKR_DEVICE_ERROR");
        format!("ckr: no PKCS#11 return value is called {name}; did you mean {near}?")
    })?;
    Ok((name.to_owned(), ckr))
}

/// As it is written: `hsm-down`.
fn name(kind: RawFaultKind) -> String {
    let mut out = String::new();
    for (index, letter) in format!("{kind:?}").chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            out.push('-');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

fn targets(target: &RawTarget, count: usize, what: &str) -> Result<Vec<usize>, String> {
    match target {
        RawTarget::Unset => Ok((0..count).collect()),
        RawTarget::Word(word) if word == "all" => Ok((0..count).collect()),
        RawTarget::Word(word) => {
            Err(format!("target is \"all\" or a list of numbers such as [0], not {word:?}"))
        }
        RawTarget::Numbers(numbers) => {
            let mut numbers = numbers.clone();
            numbers.sort_unstable();
            numbers.dedup();
            match numbers.iter().find(|number| **number >= count) {
                Some(number) => {
                    Err(format!("target: there is no {what} {number}: they are numbered 0 to {}", count - 1))
                }
                None if numbers.is_empty() => {
                    Err("target is an empty list: name at least one, or \"all\"".into())
                }
                None => Ok(numbers),
            }
        }
    }
}
