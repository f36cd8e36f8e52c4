//! What there is, as a picture: who calls, KMS, the proxies and the HSMs, and the ways between them.

use crate::fault::FaultKind;
use crate::report::Style;
use crate::scenario::{Scenario, TlsVersion};
use crate::sweep::words::clean;
use std::collections::BTreeSet;

/// One box of the picture.
struct Block {
    title: String,
    lines: Vec<String>,
}

/// The way from one box to the next: what is known of it.
struct Way(Vec<String>);

/// Boxes side by side where the terminal is wide enough, else below each other. A `!` marks what a fault strikes.
pub(super) fn topology(scenario: &Scenario, style: Style, width: usize) -> String {
    let (blocks, ways) = (blocks(scenario), ways(scenario));
    let side_by_side = beside(&blocks, &ways, style);
    let widest = side_by_side.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let lines = if widest <= width { side_by_side } else { below(&blocks, &ways, style) };
    let mut text: String = lines.iter().map(|line| format!("{}\n", line.trim_end())).collect();
    if !scenario.faults.is_empty() && text.contains('!') {
        text.push_str("  ! a fault of the timeline strikes here\n");
    }
    text
}

fn blocks(scenario: &Scenario) -> Vec<Block> {
    let struck = Struck::of(scenario);
    let mark = |hit: bool| if hit { " !" } else { "" };
    let services =
        scenario.services.iter().map(|service| format!("{} {}/s", service.name(), service.rate_per_s()));
    let (hosts, patience_ms) = (scenario.kms.hosts, scenario.kms.patience().as_millis());
    let proxies = (0..scenario.topology.proxies).map(|proxy| {
        let hsms: Vec<String> = (proxy..proxy + scenario.topology.hsms_per_proxy)
            .map(|hsm| (hsm % scenario.topology.hsms).to_string())
            .collect();
        format!("proxy {proxy} to HSM {}{}", hsms.join(", "), mark(struck.proxies.contains(&proxy)))
    });
    let hsms =
        (0..scenario.topology.hsms).map(|hsm| format!("HSM {hsm}{}", mark(struck.hsms.contains(&hsm))));
    let each = format!("{} ms, {} at once", scenario.hsm.service_ms, scenario.hsm.parallel_max);
    vec![
        Block { title: "Callers".into(), lines: services.collect() },
        Block {
            title: format!("AWS KMS{}", mark(struck.kms)),
            lines: vec![
                format!("{hosts} hosts"),
                format!("wait {patience_ms} ms"),
                format!("{}/s at most", scenario.kms.quota_per_s),
            ],
        },
        Block { title: "Load balancer".into(), lines: proxies.collect() },
        Block { title: "HSMs".into(), lines: std::iter::once(each).chain(hsms).collect() },
    ]
}

fn ways(scenario: &Scenario) -> [Way; 3] {
    let struck = Struck::of(scenario);
    let mark = |hit: bool| if hit { " !" } else { "" };
    let tls = match scenario.topology.tls {
        TlsVersion::Off => "HTTP",
        TlsVersion::V12 => "TLS 1.2",
        TlsVersion::V13 => "TLS 1.3",
    };
    let outside = vec![format!("{} ms{}", scenario.link.rtt_ms, mark(struck.link)), tls.to_owned()];
    let inside =
        scenario.hsm_link.as_ref().map(|link| format!("{} ms{}", link.rtt_ms, mark(struck.hsm_link)));
    [Way(Vec::new()), Way(outside), Way(inside.into_iter().collect())]
}

/// What the faults of the timeline strike.
#[derive(Default)]
struct Struck {
    proxies: BTreeSet<usize>,
    hsms: BTreeSet<usize>,
    link: bool,
    hsm_link: bool,
    kms: bool,
}

impl Struck {
    fn of(scenario: &Scenario) -> Self {
        let mut struck = Self::default();
        let (all_proxies, all_hsms) = (0..scenario.topology.proxies, 0..scenario.topology.hsms);
        for fault in &scenario.faults {
            match &fault.kind {
                FaultKind::Hsm { hsms, .. } => struck.hsms.extend(hsms),
                FaultKind::ExternalKeyDisabled | FaultKind::ExternalKeyDeleted => {
                    struck.hsms.extend(all_hsms.clone());
                }
                FaultKind::HsmLink { .. } => struck.hsm_link = true,
                FaultKind::Link { .. } | FaultKind::DnsFailure => struck.link = true,
                FaultKind::ProxyCrash { proxies }
                | FaultKind::ProxyRestart { proxies }
                | FaultKind::ProxyStarved { proxies, .. }
                | FaultKind::ClockSkew { proxies, .. } => struck.proxies.extend(proxies),
                FaultKind::RollingDeploy { .. }
                | FaultKind::KillSwitch
                | FaultKind::CertificateExpired
                | FaultKind::ClientCertificateDemanded
                | FaultKind::CredentialRotation { .. } => struck.proxies.extend(all_proxies.clone()),
                FaultKind::KmsKeyDisabled
                | FaultKind::KmsKeyPendingDeletion
                | FaultKind::KeyStoreDisconnected
                | FaultKind::QuotaBurst { .. } => struck.kms = true,
                FaultKind::ZoneLoss { zone } => {
                    let in_zone = |index: &usize| index % scenario.topology.zones == *zone;
                    struck.proxies.extend(all_proxies.clone().filter(in_zone));
                    struck.hsms.extend(all_hsms.clone().filter(in_zone));
                }
            }
        }
        struck
    }
}

/// Corners, lines and arrow heads.
struct Pen {
    corners: [char; 4],
    across: char,
    down: char,
    right: char,
    below: char,
}

impl Pen {
    fn of(style: Style) -> Self {
        if style.unicode {
            Self {
                corners: ['┌', '┐', '└', '┘'], across: '─', down: '│', right: '▶', below: '▼'
            }
        } else {
            Self { corners: ['+', '+', '+', '+'], across: '-', down: '|', right: '>', below: 'v' }
        }
    }
}

impl Block {
    fn draw(&self, style: Style) -> Vec<String> {
        let pen = Pen::of(style);
        let texts: Vec<String> =
            std::iter::once(&self.title).chain(&self.lines).map(|line| clean(line, style)).collect();
        let inside = texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        let edge = |left: usize, right: usize| {
            let corner = |at: usize| pen.corners.get(at).copied().unwrap_or('+');
            let line: String = std::iter::repeat_n(pen.across, inside + 2).collect();
            format!("{}{line}{}", corner(left), corner(right))
        };
        let mut lines = vec![edge(0, 1)];
        lines.extend(texts.iter().map(|text| format!("{} {text:<inside$} {}", pen.down, pen.down)));
        lines.push(edge(2, 3));
        lines
    }
}

fn beside(blocks: &[Block], ways: &[Way], style: Style) -> Vec<String> {
    let pen = Pen::of(style);
    let drawn: Vec<Vec<String>> = blocks.iter().map(|block| block.draw(style)).collect();
    let height = drawn.iter().map(Vec::len).max().unwrap_or(0);
    (0..height)
        .map(|row| {
            let mut line = String::from("  ");
            for (at, block) in drawn.iter().enumerate() {
                let width = block.first().map_or(0, |edge| edge.chars().count());
                line.push_str(&format!("{:<width$}", block.get(row).map_or("", String::as_str)));
                let Some(Way(words)) = ways.get(at) else { continue };
                let gap = words.iter().map(|word| word.chars().count()).max().unwrap_or(0).max(1) + 2;
                // The arrow runs beside the titles, what is known of the way below it.
                let part = match row {
                    1 => std::iter::repeat_n(pen.across, gap - 1).chain([pen.right]).collect(),
                    _ => row.checked_sub(2).and_then(|row| words.get(row)).cloned().unwrap_or_default(),
                };
                line.push_str(&format!("{part:^gap$}"));
            }
            line
        })
        .collect()
}

fn below(blocks: &[Block], ways: &[Way], style: Style) -> Vec<String> {
    let pen = Pen::of(style);
    let mut lines = Vec::new();
    for (at, block) in blocks.iter().enumerate() {
        lines.extend(block.draw(style).into_iter().map(|line| format!("  {line}")));
        if let Some(Way(words)) = ways.get(at) {
            lines.push(format!("      {} {}", pen.down, words.join(", ")));
            lines.push(format!("      {}", pen.below));
        }
    }
    lines
}
