//! The simulated world as a picture: callers, KMS, the network, the load balancer, proxies and HSMs, with their figures.
//!
//! Place on the map: used by `html`. It stands upright, so that it is as legible on a phone as on paper.

use super::human::{count, counted};
use crate::result::RunResult;
use maud::{Markup, html};

/// Width of the drawing, in its own units; one is about a CSS pixel.
const WIDTH: f64 = 380.0;
/// Names of callers before `and 4 more`.
const CALLERS_MAX: usize = 7;
/// Characters of a caller's name that have room.
const NAME_MAX: usize = 46;

/// What the picture shows, in a sentence.
pub(super) fn describe(result: &RunResult) -> String {
    let world = &result.world;
    format!(
        "{} call AWS KMS; {} of it {} a load balancer in {}; behind it {}, each using {} of {}.",
        counted(result.services.len() as u64, "service"),
        counted(world.kms_hosts, "host"),
        if world.kms_hosts == 1 { "calls" } else { "call" },
        counted(world.zones, "zone"),
        plural(world.proxies, "proxy", "proxies"),
        count(world.hsms_per_proxy),
        counted(world.hsms, "HSM"),
    )
}

fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A length of time as it is set: no more decimals than it has.
fn set_ms(ms: f64) -> String {
    format!("{}\u{a0}ms", if ms.is_finite() { ms } else { 0.0 })
}

/// The picture.
pub(super) fn picture(result: &RunResult) -> Markup {
    let world = &result.world;
    let names = callers(result);
    let callers_height = 30.0 + 15.0 * names.len() as f64;
    // From the top: where each station begins.
    let kms = callers_height + 46.0;
    let balancer = kms + 44.0 + 62.0;
    let proxies = balancer + 44.0 + 40.0;
    let proxy_words = proxies + 30.0 + 15.0;
    let hsms = proxy_words + 56.0;
    let height = hsms + 30.0 + 40.0;
    let (uses, hsm_count) = (world.hsms_per_proxy.min(world.hsms), world.hsms);
    html! {
        svg.topology viewBox=(format!("0 0 {WIDTH} {height}")) width="100%" role="img"
            aria-labelledby="topology-title" aria-describedby="topology-desc" {
            title #topology-title { "Topology of the simulated world" }
            desc #topology-desc { (describe(result)) }
            (station(0.0, callers_height, "Callers", &names))
            (arrow(callers_height, kms, &["requests for data keys, over the KMS API"]))
            (station(kms, 44.0, "AWS KMS", &[format!(
                "{}, each call given {} ms", counted(world.kms_hosts, "host"), count(result.xks.patience_ms)
            )]))
            (arrow(kms + 44.0, balancer, &[&link(result), &losses(result)]))
            (station(balancer, 44.0, "Network Load Balancer", &[format!("an address in {}", counted(world.zones, "zone"))]))
            @for proxy in 0..world.proxies {
                line.wire x1=(WIDTH / 2.0) y1=(balancer + 44.0) x2=(middle(proxy, world.proxies)) y2=(proxies) {}
            }
            @for proxy in 0..world.proxies {
                (host("proxy", proxy, world.proxies, proxies, &format!("P{}", proxy + 1)))
            }
            @for proxy in 0..world.proxies {
                @for nth in 0..uses {
                    line.wire x1=(middle(proxy, world.proxies)) y1=(proxies + 30.0)
                        x2=(middle((proxy + nth) % hsm_count.max(1), hsm_count)) y2=(hsms) {}
                }
            }
            text.words.on-wire x=(WIDTH / 2.0) y=(proxy_words) text-anchor="middle" {
                (plural(world.proxies, "proxy", "proxies")) " · " (counted(world.proxy_cores, "core"))
                " · answers within " (set_ms(world.deadline_ms))
            }
            text.words.on-wire x=(WIDTH / 2.0) y=(proxy_words + 26.0) text-anchor="middle" {
                @match world.hsm_rtt_ms {
                    Some(rtt_ms) => { "network of the HSMs: " (set_ms(rtt_ms)) " round trip" }
                    None => { "the way to the HSM is part of its time" }
                }
            }
            @for hsm in 0..hsm_count { (host("hsm", hsm, hsm_count, hsms, &format!("H{}", hsm + 1))) }
            text.words x=(WIDTH / 2.0) y=(hsms + 47.0) text-anchor="middle" {
                (counted(world.hsms, "HSM")) " · " (set_ms(world.hsm_service_ms)) " an operation · "
                (count(result.queues.hsm_parallel_max)) " at once · " (counted(result.queues.hsm_sessions_max, "session"))
            }
        }
    }
}

fn callers(result: &RunResult) -> Vec<String> {
    let short = |title: &str| {
        if title.chars().count() <= NAME_MAX {
            return title.to_owned();
        }
        title.chars().take(NAME_MAX - 1).chain(['…']).collect()
    };
    let hidden =
        if result.services.len() > CALLERS_MAX + 1 { result.services.len() - CALLERS_MAX } else { 0 };
    let shown = result.services.len() - hidden;
    let mut names: Vec<String> =
        result.services.iter().take(shown).map(|service| short(&service.title)).collect();
    if hidden > 0 {
        names.push(format!("and {hidden} more"));
    }
    if names.is_empty() {
        names.push("none".to_owned());
    }
    names
}

fn link(result: &RunResult) -> String {
    let tls = match result.world.tls.as_str() {
        "off" => "plain HTTP".to_owned(),
        version => format!("TLS {version}"),
    };
    format!("{} round trip · {tls}", set_ms(result.world.rtt_ms))
}

fn losses(result: &RunResult) -> String {
    let (there, back) = (result.world.loss_there, result.world.loss_back);
    if there <= 0.0 && back <= 0.0 {
        return "no loss but for the faults".to_owned();
    }
    let percent = |share: f64| format!("{}\u{a0}%", (share * 1e5).round() / 1e3);
    format!("loss: {} there, {} back", percent(there), percent(back))
}

/// A station as wide as the drawing.
fn station(y: f64, height: f64, name: &str, words: &[String]) -> Markup {
    html! {
        rect.station x="0.5" y=(y + 0.5) width=(WIDTH - 1.0) height=(height - 1.0) rx="6" {}
        text.station-name x=(WIDTH / 2.0) y=(y + 19.0) text-anchor="middle" { (name) }
        @for (line, text) in words.iter().enumerate() {
            text.words x=(WIDTH / 2.0) y=(y + 35.0 + 15.0 * line as f64) text-anchor="middle" { (text) }
        }
    }
}

fn arrow(from: f64, to: f64, words: &[&str]) -> Markup {
    let x = WIDTH / 2.0;
    let first = f64::midpoint(from, to) + 4.0 - 7.5 * (words.len() as f64 - 1.0);
    html! {
        line.wire x1=(x) y1=(from) x2=(x) y2=(to - 6.0) {}
        path.head d=(format!("M{} {}L{} {}L{} {}Z", x - 4.5, to - 8.0, x + 4.5, to - 8.0, x, to)) {}
        @for (line, text) in words.iter().enumerate() {
            text.words.on-wire x=(x) y=(first + 15.0 * line as f64) text-anchor="middle" { (text) }
        }
    }
}

/// Where the `index`-th of so many hosts has its middle.
fn middle(index: u64, all: u64) -> f64 {
    WIDTH * (index as f64 + 0.5) / all.max(1) as f64
}

fn host(kind: &str, index: u64, all: u64, y: f64, name: &str) -> Markup {
    let width = (WIDTH / all.max(1) as f64 - 3.0).clamp(1.0, 64.0);
    let x = middle(index, all);
    html! {
        rect.(kind) x=(x - width / 2.0) y=(y) width=(width) height="30" rx="4" {}
        text.host x=(x) y=(y + 20.0) text-anchor="middle" { (name) }
    }
}
