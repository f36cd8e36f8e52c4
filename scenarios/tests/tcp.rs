//! The simulated TCP behaves as Linux's: connection set-up, refusal, retransmission, order, close, reset.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

use rand_chacha::ChaCha20Rng;
use scenarios::clock::{self, Clock};
use scenarios::net::fault::{LinkFault, LinkFaultId, Ways};
use scenarios::net::link::{Link, LinkSettings};
use scenarios::net::tcp::{Listener, Network, Stream};
use scenarios::streams::Streams;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use xks_proxy::server::Listen;

const RTT: Duration = Duration::from_millis(10);

fn cut(link: &Link) -> LinkFaultId {
    link.begin(LinkFault::Cut(Ways::Both))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn random() -> ChaCha20Rng {
    Streams::new(1).stream("network", 0)
}

fn quiet_link() -> Link {
    Link::new(LinkSettings::fixed(RTT), random())
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
fn a_lost_syn_is_sent_again_after_one_three_and_seven_seconds() {
    for (cut_for, connected) in [(ms(500), 1_000), (ms(1_500), 3_000), (ms(3_500), 7_000)] {
        world(|clock, network, listener, link| async move {
            let _listening = listener;
            let partition = cut(&link);
            let healing = link.clone();
            clock.call_at(cut_for, move || healing.end(partition));
            network.connect(0, link).await.unwrap();
            assert_eq!(clock.now(), ms(connected) + RTT);
        });
    }
}

#[test]
fn a_host_that_never_answers_times_out_as_linux_does() {
    world(|clock, network, listener, link| async move {
        let _listening = listener;
        let partition = cut(&link);
        let error = network.connect(0, link).await.err().unwrap();
        // tcp_syn_retries = 6: 1 + 2 + 4 + 8 + 16 + 32 + 64 s.
        assert_eq!((error.kind(), clock.now()), (ErrorKind::TimedOut, ms(127_000)));
    });
}

#[test]
fn a_lost_segment_arrives_after_the_retransmission_timeout_and_those_behind_it_wait() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        let begun = clock.now();
        let partition = cut(&link);
        client.write_all(b"first").await.unwrap();
        link.end(partition);
        client.write_all(b"second").await.unwrap();
        let mut buffer = [0; 16];
        let mut got = 0;
        while got < 11 {
            got += server.read(&mut buffer[got..]).await.unwrap();
        }
        assert_eq!(&buffer[..11], b"firstsecond");
        // RTO = SRTT + max(200 ms, 2 × SRTT) = 210 ms, then half a round trip.
        assert_eq!(clock.now() - begun, ms(210) + RTT / 2);
    });
}

#[test]
fn retransmissions_double_until_the_partition_is_over() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        let begun = clock.now();
        let partition = cut(&link);
        client.write_all(b"x").await.unwrap();
        let healing = link.clone();
        // Tries after 210, 630 and 1,470 ms.
        clock.call_at(begun + ms(700), move || healing.end(partition));
        server.read_u8().await.unwrap();
        assert_eq!(clock.now() - begun, ms(1_470) + RTT / 2);
    });
}

#[test]
fn both_sides_give_up_after_fifteen_retransmissions() {
    world(|clock, network, mut listener, link| async move {
        let (mut client, mut server) = pair(&network, &mut listener, &link).await;
        let begun = clock.now();
        let partition = cut(&link);
        client.write_all(b"x").await.unwrap();
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(server.read_u8().await.unwrap_err().kind(), ErrorKind::TimedOut);
        // Linux calls it 924.6 s with a round trip near zero.
        let took = clock.now() - begun;
        assert!((ms(800_000)..ms(1_000_000)).contains(&took), "{took:?}");
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
        slow.begin(LinkFault::Delay { ways: Ways::Both, extra: ms(500) });
        // Both know each other after a round trip; then the slow client's ACK is on its way for half a second.
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
