//! The processes inside the namespaces: the pattern of `scenarios::net::calibration` over the kernel's TCP.
//!
//! Place on the map: started by [`site`](super::site).

use crate::site::SERVER_ADDRESS;
use scenarios::net::calibration::Point;
use scenarios::net::calibration::pattern::{Dial, Latencies, call_again_and_again, serve};
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;

/// The server listens on so many ports from here on: cold calls use up the clients' ports, which count for each.
const PORTS: std::ops::Range<u16> = 1_500..1_516;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;

/// What the clients are to do.
#[derive(clap::Args)]
pub(super) struct ClientArguments {
    /// How many.
    #[arg(long)]
    clients: u32,
    /// For how long.
    #[arg(long)]
    until_ms: u64,
    /// A connection for every call.
    #[arg(long)]
    cold: bool,
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| format!("cannot start the runtime: {error}"))
}

/// Tells the parent that all is set up.
fn ready() -> Result<(), String> {
    println!("ready");
    io::stdout().flush().map_err(|error| error.to_string())
}

struct RealDial(SocketAddr);

impl Dial for RealDial {
    type Io = TcpStream;

    async fn dial(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.0).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

fn address(port: u16) -> Result<SocketAddr, String> {
    format!("{SERVER_ADDRESS}:{port}").parse().map_err(|error| format!("{error}"))
}

/// Runs the clients, and prints what came of their calls.
pub(super) fn client(arguments: &ClientArguments) -> Result<(), String> {
    ready()?;
    let mut word = String::new();
    io::stdin().lock().read_line(&mut word).map_err(|error| error.to_string())?;
    let count = arguments.clients;
    let (until, cold) = (Duration::from_millis(arguments.until_ms), arguments.cold);
    // Of the point, the pattern looks at this alone.
    let point = Point { rtt_ms: 0, loss: 0.0, partition_ms: 0, cold };
    let all = runtime()?.block_on(async move {
        let begun = Instant::now();
        let mut tasks = Vec::new();
        for (number, port) in (0..count).zip(PORTS.cycle()) {
            let dial = RealDial(address(port)?);
            tasks.push(tokio::spawn(call_again_and_again(dial, point, (number, count), begun, until)));
        }
        let mut all = Latencies::default();
        for task in tasks {
            all.add(task.await.map_err(|error| error.to_string())?);
        }
        Ok::<_, String>(all)
    })?;
    let figures = all.figures();
    println!("{} {} {} {}", figures.calls, figures.over, figures.p50_ms, figures.p99_ms);
    Ok(())
}

/// Serves until it is killed.
pub(super) fn server() -> Result<(), String> {
    runtime()?.block_on(async {
        let listeners: Vec<TcpListener> = PORTS.map(listen).collect::<Result<_, _>>()?;
        ready()?;
        let mut tasks = tokio::task::JoinSet::new();
        for listener in listeners {
            tasks.spawn(async move {
                loop {
                    // A connection that ended before it was accepted.
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    if stream.set_nodelay(true).is_ok() {
                        tokio::spawn(serve(stream));
                    }
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    })
}

fn listen(port: u16) -> Result<TcpListener, String> {
    let address = address(port)?;
    let listen = || {
        let socket = TcpSocket::new_v4()?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| format!("cannot listen on {address}: {error}"))
}
