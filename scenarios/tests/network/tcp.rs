//! The simulated TCP behaves as Linux's: connection set-up, refusal, retransmission, order, close, reset.

use rand_chacha::ChaCha20Rng;
use scenarios::clock::{self, Clock};
use scenarios::net::capture::{Capture, CaptureSettings};
use scenarios::net::fault::{LinkFault, LinkFaultId, Ways};
use scenarios::net::link::{Link, LinkSettings};
use scenarios::net::tcp::{Listener, Network, Stream};
use scenarios::streams::Streams;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use xks_proxy::server::Listen;

const RTT: Duration = Duration::from_millis(10);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

fn random() -> ChaCha20Rng {
    Streams::new(1).stream("network", 0)
}

fn quiet_link() -> Link {
    Link::new(LinkSettings::fixed(RTT), random())
}

fn cut(link: &Link) -> LinkFaultId {
    link.begin(LinkFault::Cut(Ways::Both))
}

/// Ends a fault at the given time.
fn end_at(clock: &Clock, link: &Link, fault: LinkFaultId, at: Duration) {
    let link = link.clone();
    clock.call_at(at, move || link.end(fault));
}

/// Runs one test body with a clock, a network, a listener at address 0 and a link to it.
fn world<F: Future>(body: impl FnOnce(Clock, Network, Listener, Link) -> F) -> F::Output {
    clock::run([0; 32], |clock| {
        let network = Network::new(clock.clone());
        let listener = network.listen(0);
        body(clock, network, listener, quiet_link())
    })
    .unwrap()
}

async fn pair(network: &Network, listener: &mut Listener, link: &Link) -> (Stream, Stream) {
    let (client, server) = tokio::join!(network.connect(0, link.clone()), listener.accept());
    (client.unwrap(), server.unwrap())
}

/// Reads that many bytes; how long it took.
async fn read_after(clock: &Clock, stream: &mut Stream, bytes: usize) -> Duration {
    let begun = clock.now();
    stream.read_exact(&mut vec![0; bytes]).await.unwrap();
    clock.now() - begun
}

#[test]
fn a_handshake_takes_one_round_trip_and_a_request_with_its_answer_another() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        // The client is ready after one round trip; its ACK reaches the server half a round trip later.
        assert_eq!(clock.now(), RTT + RTT / 2);
        let begun = clock.now();
        client.write_all(b"ask").await.unwrap();
        let mut buffer = [0; 8];
        assert_eq!(server.read(&mut buffer).await.unwrap(), 3);
        assert_eq!(clock.now() - begun, RTT / 2);
        server.write_all(b"answer").await.unwrap();
        assert_eq!(client.read(&mut buffer).await.unwrap(), 6);
        assert_eq!(clock.now() - begun, RTT);
    });
}

#[test]
fn nobody_listening_is_a_refusal_after_one_round_trip() {
    world(|clock, network, listener, link| async move {
        drop(listener);
        let error = network.connect(0, link).await.err().unwrap();
        assert_eq!((error.kind(), clock.now()), (ErrorKind::ConnectionRefused, RTT));
    });
}

#[test]
fn a_middlebox_that_refuses_looks_the_same() {
    world(|clock, network, listener, link| async move {
        let _listening = listener;
        link.begin(LinkFault::Refuse);
        let error = network.connect(0, link).await.err().unwrap();
        assert_eq!((error.kind(), clock.now()), (ErrorKind::ConnectionRefused, RTT));
    });
}

#[test]
fn a_lost_syn_is_sent_again_after_one_two_three_four_five_seven_and_eleven_seconds() {
    // Linux since 6.5: tcp_syn_linear_timeouts = 4.
    for (cut_for, connected) in [
        (500, 1_000),
        (1_500, 2_000),
        (2_500, 3_000),
        (3_500, 4_000),
        (4_500, 5_000),
        (5_500, 7_000),
        (7_500, 11_000),
    ] {
        world(|clock, network, listener, link| async move {
            let _listening = listener;
            end_at(&clock, &link, cut(&link), ms(cut_for));
            network.connect(0, link).await.unwrap();
            assert_eq!(clock.now(), ms(connected) + RTT);
        });
    }
}

#[test]
fn a_host_that_never_answers_times_out_as_linux_does() {
    world(|clock, network, listener, link| async move {
        let _listening = listener;
        cut(&link);
        let error = network.connect(0, link).await.err().unwrap();
        // tcp_syn_retries = 6 after four linear ones: 67 s to the last SYN, and 64 s more.
        assert_eq!((error.kind(), clock.now()), (ErrorKind::TimedOut, ms(131_000)));
    });
}

#[test]
fn a_listener_that_accepts_nothing_takes_as_many_connections_as_the_daemon_asks_for() {
    world(|clock, network, listener, link| async move {
        let _listening = listener;
        let mut open = Vec::new();
        // Linux takes one more than asked.
        for _ in 0..=xks_proxy::server::BACKLOG {
            open.push(network.connect(0, link.clone()).await.unwrap());
            clock.sleep(RTT).await;
        }
        let another = tokio::time::timeout(ms(900), network.connect(0, link.clone())).await;
        assert!(another.is_err());
    });
}

#[test]
fn dropped_syns_do_not_touch_open_connections() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        let fault = link.begin(LinkFault::SynDrop);
        client.write_all(b"x").await.unwrap();
        assert_eq!(read_after(&clock, &mut server, 1).await, RTT / 2);
        let begun = clock.now();
        end_at(&clock, &link, fault, begun + ms(100));
        network.connect(0, link).await.unwrap();
        assert_eq!(clock.now() - begun, ms(1_000) + RTT);
    });
}

#[test]
fn a_lost_syn_ack_is_asked_for_by_the_next_syn() {
    world(|clock, network, listener, link| async move {
        let _listening = listener;
        end_at(&clock, &link, link.begin(LinkFault::Cut(Ways::Back)), ms(500));
        network.connect(0, link).await.unwrap();
        assert_eq!(clock.now(), ms(1_000) + RTT);
    });
}

#[test]
fn a_lost_ack_of_the_handshake_is_made_up_for_by_the_first_data_or_a_second_syn_ack() {
    for (writes, accepted) in [(true, ms(20)), (false, ms(1_015))] {
        world(|clock, network, mut listener, link| async move {
            // The SYN leaves at 0 ms, the ACK at 10 ms, the data at 15 ms.
            clock.call_at(ms(7), {
                let (clock, link) = (clock.clone(), link.clone());
                move || end_at(&clock, &link, cut(&link), ms(12))
            });
            let (network, connecting, waiting) = (network.clone(), link.clone(), clock.clone());
            let client = tokio::task::spawn_local(async move {
                let mut client = network.connect(0, connecting).await.unwrap();
                waiting.sleep_until(ms(15)).await;
                if writes {
                    client.write_all(b"x").await.unwrap();
                }
                client
            });
            let _server = listener.accept().await.unwrap();
            assert_eq!(clock.now(), accepted);
            drop(client);
        });
    }
}

#[test]
fn a_lost_request_is_sent_again_by_a_probe_after_the_time_out_of_one_segment() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        let partition = cut(&link);
        client.write_all(b"request").await.unwrap();
        link.end(partition);
        // A probe would wait 2 × 10 ms + 200 ms, but never longer than the time-out of 10 ms + 200 ms.
        assert_eq!(read_after(&clock, &mut server, 7).await, ms(210) + RTT / 2);
    });
}

#[test]
fn a_segment_sent_again_for_those_after_it_has_its_whole_time_out_once_more() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        let begun = clock.now();
        let partition = cut(&link);
        client.write_all(b"1").await.unwrap();
        link.end(partition);
        for rest in [b"2", b"3", b"4", b"5"] {
            client.write_all(rest).await.unwrap();
        }
        // Three later ones are known to have arrived after a round trip; what is sent again then is lost too.
        clock.call_at(begun + ms(9), {
            let (clock, link) = (clock.clone(), link.clone());
            move || end_at(&clock, &link, cut(&link), begun + ms(11))
        });
        assert_eq!(read_after(&clock, &mut server, 5).await, RTT + ms(210) + RTT / 2);
    });
}

#[test]
fn a_segment_that_arrives_twice_is_acknowledged_twice() {
    let packets = |duplication| {
        clock::run([0; 32], |clock| async move {
            let settings =
                CaptureSettings { proxy_port: 80, until: Duration::from_secs(60), bytes_max: 1_000_000 };
            let capture = Capture::new(clock.clone(), Box::new(std::io::sink()), settings).unwrap();
            let network = Network::new(clock.clone()).captured_by(capture.clone());
            let mut listener = network.listen(0);
            let link = Link::new(LinkSettings { duplication, ..LinkSettings::fixed(RTT) }, random());
            let (mut client, mut server) = pair(&network, &mut listener, &link).await;
            client.write_all(b"x").await.unwrap();
            assert_eq!(read_after(&clock, &mut server, 1).await, RTT / 2);
            clock.sleep(ms(1_000)).await;
            capture.finish().unwrap().packets
        })
        .unwrap()
    };
    // SYN, SYN-ACK, ACK, the segment and its acknowledgement; a copy shows only by what it is answered with.
    assert_eq!((packets(0.0), packets(1.0)), (5, 6));
}

#[test]
fn probe_and_doubling_time_outs_follow_each_other_until_the_partition_is_over() {
    // The probe after 210 ms, then time-outs after 210 ms more, 420 ms more, 840 ms more.
    for (cut_for, arrives) in [(100, 210), (300, 420), (700, 840), (1_000, 1_680)] {
        world(|clock, network, mut listener, link| async move {
            let (mut client, mut server) = pair(&network, &mut listener, &link).await;
            end_at(&clock, &link, cut(&link), clock.now() + ms(cut_for));
            client.write_all(b"x").await.unwrap();
            assert_eq!(read_after(&clock, &mut server, 1).await, ms(arrives) + RTT / 2);
        });
    }
}

#[test]
fn what_arrives_after_a_lost_segment_tells_of_the_loss() {
    // One later segment: a round trip and a quarter of one against reordering. Three: none of that.
    for (later, resent) in [(1, us(12_500)), (2, us(12_500)), (3, ms(10)), (5, ms(10))] {
        world(|clock, network, mut listener, link| async move {
            let (mut client, mut server) = pair(&network, &mut listener, &link).await;
            let partition = cut(&link);
            client.write_all(b"first").await.unwrap();
            link.end(partition);
            for _ in 0..later {
                client.write_all(b"later").await.unwrap();
            }
            let begun = clock.now();
            let mut bytes = vec![0; 5 * (later + 1)];
            // Head-of-line blocking: nothing can be read before the first.
            assert_eq!(server.read(&mut bytes).await.unwrap(), bytes.len());
            assert_eq!(clock.now() - begun, resent + RTT / 2);
            assert!(bytes.starts_with(b"firstlater"));
        });
    }
}

#[test]
fn a_lost_flight_is_probed_at_its_end_after_two_round_trips() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        let partition = cut(&link);
        client.write_all(b"first").await.unwrap();
        client.write_all(b"last").await.unwrap();
        link.end(partition);
        // The probe leaves after 2 × 10 ms + 2 ms; its acknowledgement tells of the other loss 10 ms later.
        assert_eq!(read_after(&clock, &mut server, 9).await, ms(32) + RTT / 2);
    });
}

#[test]
fn a_slow_segment_and_the_copies_sent_for_nothing_arrive_once() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        let slow = link.begin(LinkFault::Delay { ways: Ways::There, extra: ms(500) });
        client.write_all(b"x").await.unwrap();
        end_at(&clock, &link, slow, clock.now() + ms(100));
        // A path keeps the order of a connection's packets: the copy arrives with what it followed.
        assert_eq!(read_after(&clock, &mut server, 1).await, ms(500) + RTT / 2);
        // Nothing is delivered twice.
        client.write_all(b"y").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'y');
    });
}

#[test]
fn measured_round_trips_hold_the_time_the_other_side_takes_to_answer() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        let answers = clock.clone();
        let echo = tokio::task::spawn_local(async move {
            while let Ok(byte) = server.read_u8().await {
                answers.sleep(ms(20)).await;
                server.write_u8(byte).await.unwrap();
            }
        });
        for byte in 0..60 {
            client.write_u8(byte).await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), byte);
            clock.sleep(ms(100)).await;
        }
        let (begun, partition) = (clock.now(), cut(&link));
        client.write_u8(7).await.unwrap();
        link.end(partition);
        client.read_u8().await.unwrap();
        // The acknowledgement waits for the answer: 30 ms, and 200 ms on top; then the round trip and the answer.
        let took = clock.now() - begun;
        assert!((ms(259)..=ms(260)).contains(&took), "{took:?}");
        drop(client);
        echo.await.unwrap();
    });
}

#[test]
fn a_large_write_takes_rounds_of_a_doubling_window() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        let begun = clock.now();
        // 71 segments: 10, 20, 40 and 1.
        client.write_all(&vec![1; 100 * 1_024]).await.unwrap();
        assert_eq!(clock.now(), begun);
        assert_eq!(read_after(&clock, &mut server, 100 * 1_024).await, RTT * 3 + RTT / 2);
    });
}

#[test]
fn a_large_write_over_a_lossy_link_arrives_whole_and_in_order() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        link.begin(LinkFault::Loss { ways: Ways::Both, share: 0.1 });
        let sent: Vec<u8> = (0..200_000_u32).map(|place| (place % 251) as u8).collect();
        client.write_all(&sent).await.unwrap();
        let begun = clock.now();
        let mut got = vec![0; sent.len()];
        server.read_exact(&mut got).await.unwrap();
        assert!(got == sent);
        assert!(clock.now() - begun < ms(5_000), "{:?}", clock.now() - begun);
    });
}

#[test]
fn a_sender_gives_up_after_fifteen_doublings_and_the_other_end_learns_nothing() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        let (begun, partition) = (clock.now(), cut(&link));
        client.write_all(b"x").await.unwrap();
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        // tcp_retries2 = 15 stands for 924.6 s from the probe after 210 ms on, looked at whenever a time-out ends.
        assert_eq!(clock.now() - begun, ms(935_040));
        link.end(partition);
        assert!(tokio::time::timeout(ms(3_600_000), server.read_u8()).await.is_err());
        // Half-open: only what the server sends is answered, with a reset.
        let begun = clock.now();
        server.write_all(b"x").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(clock.now() - begun, RTT);
    });
}

#[test]
fn a_sender_whose_acknowledgements_are_cut_off_gives_up_though_everything_arrived() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        link.begin(LinkFault::Cut(Ways::Back));
        let begun = clock.now();
        client.write_all(b"x").await.unwrap();
        assert_eq!(read_after(&clock, &mut server, 1).await, RTT / 2);
        assert_eq!(client.read_u8().await.unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(clock.now() - begun, ms(935_040));
        assert!(tokio::time::timeout(ms(1_000), server.read_u8()).await.is_err());
    });
}

#[test]
fn a_connection_that_a_firewall_forgot_is_half_open() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        link.begin(LinkFault::IdleFirewall { idle: ms(60_000) });
        clock.sleep(ms(61_000)).await;
        client.write_all(b"x").await.unwrap();
        assert!(tokio::time::timeout(ms(10_000), server.read_u8()).await.is_err());
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        client.write_all(b"y").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'y');
    });
}

#[test]
fn a_middlebox_resets_both_ends_with_the_first_packet() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        link.begin(LinkFault::Reset { share: 1.0 });
        let begun = clock.now();
        client.write_all(b"x").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(server.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(clock.now() - begun, RTT / 2);
        assert_eq!(server.write(b"y").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_dead_process_sends_a_fin_and_resets_what_comes_later() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, server) = pair(&network, &mut listener, &link).await;
        drop(server);
        let mut buffer = [0; 1];
        assert_eq!(client.read(&mut buffer).await.unwrap(), 0);
        // The client's kernel takes the bytes; the answer of the other kernel is a reset.
        client.write_all(b"late").await.unwrap();
        clock.sleep(RTT).await;
        assert_eq!(client.write_all(b"later").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert_eq!(client.read(&mut buffer).await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_process_that_dies_with_unread_data_resets() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, server) = pair(&network, &mut listener, &link).await;
        client.write_all(b"unread").await.unwrap();
        clock.sleep(RTT).await;
        let begun = clock.now();
        drop(server);
        assert_eq!(client.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(clock.now() - begun, RTT / 2);
    });
}

#[test]
fn a_writer_waits_when_the_reader_does_not_read() {
    world(|_, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        let block = vec![7; 64 * 1024];
        let mut written = 0_usize;
        while let Ok(done) = tokio::time::timeout(ms(1_000), client.write(&block)).await {
            written += done.unwrap();
        }
        assert!((256 * 1024..512 * 1024).contains(&written), "{written}");
        let mut read = vec![0; 300 * 1024];
        server.read_exact(&mut read[..200 * 1024]).await.unwrap();
        // Room again.
        tokio::time::timeout(ms(1_000), client.write(&block)).await.unwrap().unwrap();
    });
}

#[test]
fn a_connection_over_a_slow_path_does_not_hold_up_one_over_a_fast_path() {
    world(|clock, network, mut listener, slow| async move {
        let fast = quiet_link();
        slow.begin(LinkFault::Delay { ways: Ways::Both, extra: ms(400) });
        // Both know each other after a round trip; then the slow client's ACK is on its way for 405 ms.
        let (slow_network, slow_link) = (network.clone(), slow.clone());
        let slow_client = tokio::task::spawn_local(async move { slow_network.connect(0, slow_link).await });
        let accepted = tokio::task::spawn_local(async move { listener.accept().await.map(|_| ()) });
        let slow_client = slow_client.await.unwrap().unwrap();
        let _fast_client = network.connect(0, fast).await.unwrap();
        let connected = clock.now();
        accepted.await.unwrap().unwrap();
        assert_eq!(clock.now() - connected, RTT / 2);
        drop(slow_client);
    });
}

#[test]
fn a_writer_that_waits_for_room_learns_that_its_reader_is_gone() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, server) = pair(&network, &mut listener, &link).await;
        client.write_all(&vec![0; 300 * 1024]).await.unwrap();
        let writer = tokio::task::spawn_local(async move {
            while client.write_all(b"more").await.is_ok() {
                tokio::time::sleep(ms(1)).await;
            }
        });
        clock.sleep(ms(50)).await;
        assert!(!writer.is_finished());
        drop(server);
        tokio::time::timeout(ms(100), writer).await.expect("the writer is told").unwrap();
    });
}
