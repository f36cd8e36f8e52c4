//! Compares the simulated TCP with this machine's kernel, and writes both down in `scenarios/CALIBRATION.md`.
//!
//!     cargo xtask calibrate-net
//!
//! Two network namespaces are connected by a relay between two TUN devices, which asks the simulation's own link model
//! when each packet arrives. The same request pattern runs in them over the kernel's TCP and in virtual time over the
//! simulated one. `site` makes the namespaces, `relay` carries the packets, `endpoints` are the processes inside,
//! `document` is what is written.

#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "a measurement lives in real time, opens real connections and starts its own threads"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its user")]

mod document;
mod endpoints;
mod relay;
mod site;

use clap::{Parser, Subcommand};
use scenarios::net::calibration::pattern::WARM_UP;
use scenarios::net::calibration::table::{HEADING, Row, line};
use scenarios::net::calibration::{Figures, Point, grid, link_settings, simulate};
use scenarios::net::link::LinkSettings;
use site::{Missing, Site};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// A relay that is later than this on average makes a comparison void.
const LATENESS_MAX: Duration = Duration::from_millis(1);

/// Compares the simulated TCP with the kernel's.
#[derive(Parser)]
#[command(name = "calibrate")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures every point of the grid.
    Run(RunArguments),
    /// The clients of one point, inside a namespace; the parent starts it.
    #[command(hide = true)]
    Client(endpoints::ClientArguments),
    /// The server, inside a namespace; the parent starts it.
    #[command(hide = true)]
    Server,
}

#[derive(clap::Args)]
struct RunArguments {
    /// A sample of the grid: two losses, one partition; the document is left as it is.
    #[arg(long)]
    quick: bool,
    /// How long each point is measured, 8 to 600 seconds.
    #[arg(long, default_value_t = 14, value_parser = clap::value_parser!(u64).range(8..=600))]
    seconds: u64,
    /// Clients at each point, 1 to 2,000.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    clients: u32,
    /// Points measured at the same time, 1 to 16.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    parallel: u32,
    /// Only points whose description contains this, such as "5 ms, 0 % loss"; the document is left as it is.
    #[arg(long)]
    only: Option<String>,
    /// The document to write.
    #[arg(long)]
    document: PathBuf,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run(&arguments),
        Command::Client(arguments) => ended(endpoints::client(&arguments)),
        Command::Server => ended(endpoints::server()),
    }
}

fn ended(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("calibrate: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &RunArguments) -> ExitCode {
    if let Err(Missing(what)) = site::check() {
        eprintln!("calibrate: {what}");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(format!("cannot start the runtime: {error}"))),
    };
    // Dropped namespaces are deleted, whichever way this ends.
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = measure(arguments) => outcome,
            _ = tokio::signal::ctrl_c() => Err("interrupted; nothing was written".into()),
        }
    });
    drop(runtime);
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => ended(Err(message)),
    }
}

/// Everything measured at one point.
#[derive(Clone, Copy)]
struct Measured {
    row: Row,
    relay: relay::Lateness,
}

/// Whether all points agree.
async fn measure(arguments: &RunArguments) -> Result<bool, String> {
    let chosen = |point: &Point| arguments.only.as_ref().is_none_or(|only| point.to_string().contains(only));
    let points: Vec<Point> = grid(arguments.quick).into_iter().filter(chosen).collect();
    println!(
        "{} points of {} s, {} at a time; each with {} clients over this kernel's TCP, and over the simulated one.\n",
        points.len(),
        arguments.seconds,
        arguments.parallel,
        arguments.clients,
    );
    println!("{HEADING}");
    let until = WARM_UP + Duration::from_secs(arguments.seconds);
    let mut measured = Vec::with_capacity(points.len());
    for together in points.chunks(arguments.parallel as usize) {
        let mut running = Vec::with_capacity(together.len());
        for (place, point) in together.iter().enumerate() {
            let (place, point, clients) = (place, *point, arguments.clients);
            running.push(tokio::spawn(async move { real(place, point, clients, until).await }));
        }
        for (task, point) in running.into_iter().zip(together) {
            let (real, relay) = task.await.map_err(|error| error.to_string())??;
            let simulated = simulated(*point, relay, arguments.clients, until).await?;
            let row = Row { point: *point, real, simulated };
            if relay.mean > LATENESS_MAX {
                return Err(format!(
                    "at {point} the relay passed packets on {:.1} ms late on average, so that this measures the machine and \
                     not TCP; nothing was written. Run it where nothing else runs, or with --parallel 1",
                    relay.mean.as_secs_f64() * 1_000.0
                ));
            }
            println!("{}", line(&row));
            measured.push(Measured { row, relay });
        }
    }
    let apart = measured.iter().filter(|it| !it.row.agrees()).count();
    println!("\n{}", document::verdict(&measured));
    if !arguments.quick && arguments.only.is_none() {
        document::write(&arguments.document, &measured, arguments)?;
        println!("{} is written.", arguments.document.display());
    }
    Ok(apart == 0)
}

async fn real(
    place: usize,
    point: Point,
    clients: u32,
    until: Duration,
) -> Result<(Figures, relay::Lateness), String> {
    let site = Site::new(place).await?;
    let mut server = site.start_server().await?;
    let mut client = site.start_client(&point, clients, until).await?;
    // The clock of the partitions begins with the clients'.
    client.go().await?;
    let relay = site.relay(point);
    let figures = client.figures().await?;
    let lateness = relay.stop()?;
    server.stop().await;
    Ok((figures, lateness))
}

/// The same in virtual time, over a link that takes as long as the relay did; longer, since that costs nothing, so that
/// chance shows on one side alone.
async fn simulated(
    point: Point,
    relay: relay::Lateness,
    clients: u32,
    until: Duration,
) -> Result<Figures, String> {
    let configured = link_settings(&point);
    let settings = LinkSettings { rtt: configured.rtt + relay.mean * 2, ..configured };
    let simulated = tokio::task::spawn_blocking(move || {
        simulate(point, settings, clients * 3, until, 1).map_err(|error| error.to_string())
    });
    simulated.await.map_err(|error| error.to_string())?
}
