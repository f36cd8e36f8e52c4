//! Peers that take their time, or more than one connection: each gives its place back.

use crate::messages::{Answer, Pieces};
use crate::target::{HUNG, Io, Target, until_closed};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, split};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

/// Between two bytes of a slow sender: far less than any limit, so that it is never idle.
const TRICKLE: Duration = Duration::from_millis(20);

/// What is sent at once, what byte by byte, and the statuses of the answers after which the proxy closes.
struct Case {
    name: &'static str,
    at_once: Vec<u8>,
    slowly: Vec<u8>,
    statuses: &'static [u16],
}

/// All of them, side by side.
pub(crate) async fn attack(target: &Target) {
    let request = Pieces::encrypt("slow");
    let head = |fields: &str| request.framed(fields, "");
    let length = format!("content-length: {}\r\n", request.body.len());
    // A head that does not end is no request: the connection is cut off without an answer. A body that does not end
    // is, and the answer comes at the deadline.
    let case = |name, at_once, slowly, statuses| Case { name, at_once, slowly, statuses };
    let cases: [Case; 8] = [
        case("nothing", Vec::new(), Vec::new(), &[]),
        case("a head that stops", request.head.clone().into_bytes(), Vec::new(), &[]),
        case("a slow head", Vec::new(), request.with_length(&"x: y\r\n".repeat(50)), &[]),
        case("a slow field", format!("{}x: ", request.head).into_bytes(), b"y".repeat(1_000), &[]),
        case("a body that never comes", head(&length), Vec::new(), &[503]),
        case("a slow body", head(&length), request.body.clone().into_bytes(), &[503]),
        case("a chunk that never comes", head("transfer-encoding: chunked\r\n"), Vec::new(), &[503]),
        case("slow chunks", head("transfer-encoding: chunked\r\n"), b"1\r\nx\r\n".repeat(1_000), &[503]),
    ];
    let mut running = JoinSet::new();
    for Case { name, at_once, slowly, statuses } in cases {
        let target = target.clone();
        running.spawn(async move {
            let got: Vec<u16> = trickle(&target, &at_once, &slowly).await.iter().map(|a| a.status).collect();
            (got != statuses).then(|| format!("{name}: {got:?} instead of {statuses:?}"))
        });
    }
    let (target, request) = (target.clone(), request.with_length(""));
    running.spawn(async move {
        never_reads(&mut *target.connect().await, &request).await;
        None
    });
    let wrong: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

async fn trickle(target: &Target, at_once: &[u8], slowly: &[u8]) -> Vec<Answer> {
    let (mut read, mut write) = split(target.connect().await);
    let send = async {
        let _ = write.write_all(at_once).await;
        let _ = write.flush().await;
        let mut pace = interval(TRICKLE);
        for byte in slowly {
            pace.tick().await;
            if write.write_all(&[*byte]).await.is_err() || write.flush().await.is_err() {
                break;
            }
        }
    };
    let ((), bytes) = tokio::join!(send, until_closed(&mut read));
    Answer::all_of(&bytes).await
}

/// Asks and asks, and reads no answer, until the proxy has closed the connection.
pub(crate) async fn never_reads(io: &mut dyn Io, request: &[u8]) {
    let ask = async { while io.write_all(request).await.is_ok() && io.flush().await.is_ok() {} };
    timeout(HUNG, ask).await.unwrap_or_else(|_| panic!("never closed"));
}
