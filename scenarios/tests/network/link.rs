//! A link does to packets what its settings and its faults say, each without disturbing the draws of another.

use scenarios::net::burst::GilbertElliott;
use scenarios::net::fault::{LinkFault, Ways};
use scenarios::net::latency::Latency;
use scenarios::net::link::{Fate, Link, LinkSettings};
use scenarios::net::packet::{EachWay, Flow, Packet, PacketKind, Way};
use scenarios::streams::Streams;
use std::time::Duration;

const RTT: Duration = Duration::from_millis(10);
const DATA: Packet = Packet { bytes: 1_000, kind: PacketKind::Established };
const SYN: Packet = Packet { bytes: 60, kind: PacketKind::Syn };
const SYN_ACK: Packet = Packet { bytes: 60, kind: PacketKind::SynAck };

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn link(settings: LinkSettings) -> Link {
    Link::new(settings, Streams::new(3).stream("network", 0))
}

fn fixed() -> Link {
    link(LinkSettings::fixed(RTT))
}

/// The fate of one packet of a connection of its own.
fn fate(link: &Link, way: Way, packet: Packet) -> Fate {
    link.send(way, packet, &mut Flow::default(), ms(1_000))
}

fn arrives(after: Duration) -> Fate {
    Fate::Arrives { after, again: None }
}

/// Delays of packets sent a second apart over one connection; `None` is lost.
fn delays(link: &Link, way: Way, count: u64) -> Vec<Option<Duration>> {
    let mut flow = Flow::default();
    (0..count)
        .map(|second| match link.send(way, DATA, &mut flow, Duration::from_secs(second)) {
            Fate::Arrives { after, .. } => Some(after),
            Fate::Lost => None,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn lost(link: &Link, way: Way) -> usize {
    delays(link, way, 20_000).iter().filter(|delay| delay.is_none()).count()
}

#[test]
fn a_packet_takes_half_the_round_trip_and_what_its_way_takes_longer() {
    let extra = EachWay { there: ms(3), back: ms(7) };
    let link = link(LinkSettings { extra, ..LinkSettings::fixed(RTT) });
    assert_eq!(fate(&link, Way::There, DATA), arrives(ms(8)));
    assert_eq!(fate(&link, Way::Back, DATA), arrives(ms(12)));
}

#[test]
fn each_way_loses_its_own_share() {
    let loss = EachWay { there: 0.05, back: 0.2 };
    let link = link(LinkSettings { loss, ..LinkSettings::fixed(RTT) });
    let (there, back) = (lost(&link, Way::There), lost(&link, Way::Back));
    assert!((900..1_100).contains(&there) && (3_800..4_200).contains(&back), "{there} {back}");
}

#[test]
fn a_setting_does_not_reshuffle_the_draws_of_another() {
    let plain = LinkSettings { latency: Latency::Exponential(ms(2)), ..LinkSettings::fixed(RTT) };
    let everything = LinkSettings {
        loss: EachWay::both(0.1),
        burst: GilbertElliott { p: 0.05, ..GilbertElliott::default() },
        duplication: 0.3,
        reordering: 0.2,
        ..plain.clone()
    };
    let (plain, everything) = (link(plain), link(everything));
    everything.begin(LinkFault::Loss { ways: Ways::There, share: 0.2 });
    let expected = delays(&plain, Way::There, 1_000);
    let seen = delays(&everything, Way::There, 1_000);
    assert!(seen.iter().flatten().count() < 900);
    assert!(seen.iter().zip(&expected).all(|(seen, expected)| seen.is_none() || seen == expected));
    // Nor does the traffic of one way those of the other.
    let other = link(LinkSettings { latency: Latency::Exponential(ms(2)), ..LinkSettings::fixed(RTT) });
    assert_eq!(delays(&other, Way::Back, 10), delays(&plain, Way::Back, 10));
}

#[test]
fn losses_of_settings_do_not_move_those_of_bursts() {
    let bursts = LinkSettings {
        burst: GilbertElliott { p: 0.05, ..GilbertElliott::default() },
        ..LinkSettings::fixed(RTT)
    };
    let both = LinkSettings { loss: EachWay::both(0.1), ..bursts.clone() };
    let (bursts, both) = (link(bursts), link(both));
    let (alone, beside) = (delays(&bursts, Way::There, 2_000), delays(&both, Way::There, 2_000));
    assert!(alone.iter().zip(&beside).all(|(alone, beside)| alone.is_some() || beside.is_none()));
    assert!(alone.iter().any(Option::is_none));
}

#[test]
fn a_connections_packets_keep_their_order_unless_reordered() {
    let jittery = LinkSettings { latency: Latency::Exponential(ms(20)), ..LinkSettings::fixed(RTT) };
    let overtaking = |settings: LinkSettings| {
        let (link, mut flow) = (link(settings), Flow::default());
        let mut latest = Duration::ZERO;
        let mut overtaken = 0;
        for index in 0..2_000 {
            let now = ms(index);
            let Fate::Arrives { after, .. } = link.send(Way::There, DATA, &mut flow, now) else {
                panic!("nothing is lost here");
            };
            overtaken += u32::from(now + after < latest);
            latest = latest.max(now + after);
        }
        overtaken
    };
    assert_eq!(overtaking(jittery), 0);
    let reordering = LinkSettings { reordering: 0.1, reordering_extra: ms(5), ..LinkSettings::fixed(RTT) };
    // Each of the two hundred that are reordered is overtaken by up to five that follow.
    let overtaken = overtaking(reordering);
    assert!((500..1_000).contains(&overtaken), "{overtaken}");
}

#[test]
fn a_share_of_packets_arrives_twice() {
    let link = link(LinkSettings { duplication: 0.25, ..LinkSettings::fixed(RTT) });
    let twice = (0..10_000)
        .filter(|_| matches!(fate(&link, Way::There, DATA), Fate::Arrives { again: Some(_), .. }))
        .count();
    assert!((2_300..2_700).contains(&twice), "{twice}");
}

#[test]
fn a_narrow_line_sends_one_packet_after_the_other_and_drops_what_finds_it_full() {
    let bits_per_s = EachWay { there: Some(1_000_000), back: None };
    let settings = LinkSettings { bits_per_s, queue_bytes: 2_000, ..LinkSettings::fixed(RTT) };
    let link = link(settings);
    // 1,000 bytes take 8 ms of the line, then half the round trip.
    assert_eq!(fate(&link, Way::There, DATA), arrives(ms(8 + 5)));
    assert_eq!(fate(&link, Way::There, DATA), arrives(ms(16 + 5)));
    assert_eq!(fate(&link, Way::There, DATA), Fate::Lost);
    assert_eq!(fate(&link, Way::Back, DATA), arrives(ms(5)));
}

#[test]
fn bandwidth_faults_narrow_the_line_and_the_narrowest_counts() {
    let link = fixed();
    let wide = link.begin(LinkFault::Bandwidth { ways: Ways::Both, bits_per_s: 8_000_000 });
    let narrow = link.begin(LinkFault::Bandwidth { ways: Ways::There, bits_per_s: 1_000_000 });
    assert_eq!(fate(&link, Way::There, DATA), arrives(ms(8 + 5)));
    assert_eq!(fate(&link, Way::Back, DATA), arrives(ms(1 + 5)));
    link.end(narrow);
    let later = link.send(Way::There, DATA, &mut Flow::default(), ms(2_000));
    assert_eq!(later, arrives(ms(1 + 5)));
    link.end(wide);
    assert_eq!(link.send(Way::There, DATA, &mut Flow::default(), ms(3_000)), arrives(ms(5)));
}

#[test]
fn a_line_that_widens_is_not_dead_until_it_would_have_been_free() {
    let link = fixed();
    let narrow = link.begin(LinkFault::Bandwidth { ways: Ways::There, bits_per_s: 500_000 });
    while fate(&link, Way::There, DATA) != Fate::Lost {}
    // The queue's 256 KiB take 4.2 s at this rate, and 21 ms at a hundred Mbit/s.
    link.change(narrow, LinkFault::Bandwidth { ways: Ways::There, bits_per_s: 100_000_000 });
    let send = |at| link.send(Way::There, DATA, &mut Flow::default(), at);
    let Fate::Arrives { after, .. } = send(ms(1_100)) else { panic!("the queue has room again") };
    assert!((ms(23)..ms(27)).contains(&after), "{after:?}");
    assert_eq!(send(ms(1_200)), arrives(ms(5) + Duration::from_micros(80)));
    // Without a limit nothing waits, and what waited is gone when there is one again.
    link.change(narrow, LinkFault::Bandwidth { ways: Ways::There, bits_per_s: 500_000 });
    while send(ms(1_300)) != Fate::Lost {}
    link.end(narrow);
    assert_eq!(send(ms(1_301)), arrives(ms(5)));
    link.begin(LinkFault::Bandwidth { ways: Ways::There, bits_per_s: 1_000_000 });
    assert_eq!(send(ms(1_302)), arrives(ms(5 + 8)));
}

#[test]
fn cuts_and_delays_add_up_and_heal() {
    let link = fixed();
    let first = link.begin(LinkFault::Cut(Ways::Both));
    let second = link.begin(LinkFault::Cut(Ways::Both));
    link.end(first);
    assert_eq!(fate(&link, Way::There, DATA), Fate::Lost);
    link.end(second);
    link.end(second);
    let delay = |ways, extra| link.begin(LinkFault::Delay { ways, extra });
    let (both, there) = (delay(Ways::Both, ms(100)), delay(Ways::There, ms(50)));
    assert_eq!(fate(&link, Way::There, DATA), arrives(ms(155)));
    assert_eq!(fate(&link, Way::Back, DATA), arrives(ms(105)));
    link.change(both, LinkFault::Delay { ways: Ways::Both, extra: ms(10) });
    assert_eq!(fate(&link, Way::Back, DATA), arrives(ms(15)));
    link.end(both);
    link.end(there);
    assert_eq!(fate(&link, Way::There, DATA), arrives(ms(5)));
    // A fault that is over stays over.
    link.change(both, LinkFault::Cut(Ways::Both));
    assert_eq!(fate(&link, Way::There, DATA), arrives(ms(5)));
}

#[test]
fn a_one_way_cut_lets_the_other_way_pass() {
    let link = fixed();
    link.begin(LinkFault::Cut(Ways::Back));
    assert_eq!(fate(&link, Way::There, DATA), arrives(ms(5)));
    assert_eq!(fate(&link, Way::Back, DATA), Fate::Lost);
    assert!(link.is_cut(Way::Back) && !link.is_cut(Way::There));
}

#[test]
fn a_loss_that_ramps_up_loses_more_and_more() {
    let link = fixed();
    let ramp = link.begin(LinkFault::Loss { ways: Ways::There, share: 0.0 });
    let mut counts = Vec::new();
    for share in [0.0, 0.1, 0.4, 1.0, 7.0, -1.0] {
        link.change(ramp, LinkFault::Loss { ways: Ways::There, share });
        counts.push(lost(&link, Way::There));
    }
    assert_eq!((counts[0], counts[3], counts[4], counts[5]), (0, 20_000, 20_000, 0));
    assert!((1_800..2_200).contains(&counts[1]) && (7_700..8_300).contains(&counts[2]), "{counts:?}");
    assert_eq!(lost(&link, Way::Back), 0);
    link.change(ramp, LinkFault::Loss { ways: Ways::There, share: 0.5 });
    link.lose_nothing();
    assert_eq!(lost(&link, Way::There), 0);
}

#[test]
fn dropping_syns_leaves_open_connections_alone() {
    let link = fixed();
    link.begin(LinkFault::SynDrop);
    assert_eq!(fate(&link, Way::There, SYN), Fate::Lost);
    assert_eq!(fate(&link, Way::Back, SYN_ACK), arrives(ms(5)));
    assert_eq!(fate(&link, Way::There, DATA), arrives(ms(5)));
}

#[test]
fn a_firewall_forgets_idle_connections_and_no_others() {
    let link = fixed();
    let (mut busy, mut idle) = (Flow::default(), Flow::default());
    let send = |flow: &mut Flow, packet, at| link.send(Way::There, packet, flow, ms(at));
    send(&mut busy, DATA, 0);
    send(&mut idle, DATA, 0);
    let firewall = link.begin(LinkFault::IdleFirewall { idle: ms(60_000) });
    assert_eq!(send(&mut busy, DATA, 40_000), arrives(ms(5)));
    assert_eq!(send(&mut busy, DATA, 90_000), arrives(ms(5)));
    assert_eq!(send(&mut idle, DATA, 90_000), Fate::Lost);
    // Trying again does not help, in neither direction, but a new connection does.
    assert_eq!(send(&mut idle, DATA, 90_300), Fate::Lost);
    assert_eq!(link.send(Way::Back, DATA, &mut idle, ms(90_400)), Fate::Lost);
    assert_eq!(send(&mut idle, SYN, 91_000), arrives(ms(5)));
    assert_eq!(send(&mut idle, DATA, 91_100), arrives(ms(5)));
    assert_eq!(send(&mut busy, DATA, 200_000), Fate::Lost);
    link.end(firewall);
    assert_eq!(send(&mut busy, DATA, 900_000), arrives(ms(5)));
    // Nor does the next firewall know what this one had forgotten.
    link.begin(LinkFault::IdleFirewall { idle: ms(60_000) });
    assert_eq!(send(&mut busy, DATA, 901_000), arrives(ms(5)));
}

#[test]
fn a_middlebox_resets_open_connections_and_refuses_new_ones_on_demand() {
    let link = fixed();
    let reset = link.begin(LinkFault::Reset { share: 1.0 });
    assert_eq!(fate(&link, Way::Back, DATA), Fate::Reset { after: ms(5) });
    assert_eq!(fate(&link, Way::There, SYN), arrives(ms(5)));
    link.change(reset, LinkFault::Reset { share: 0.3 });
    let resets = (0..10_000).filter(|_| matches!(fate(&link, Way::There, DATA), Fate::Reset { .. })).count();
    assert!((2_800..3_200).contains(&resets), "{resets}");
    link.end(reset);
    let refuse = link.begin(LinkFault::Refuse);
    assert_eq!(fate(&link, Way::There, SYN), Fate::Refused { after: RTT });
    assert_eq!(fate(&link, Way::There, DATA), arrives(ms(5)));
    link.end(refuse);
    assert_eq!(fate(&link, Way::There, SYN), arrives(ms(5)));
}
