//! As little as a server can do: reads an HTTP request and answers a constant of an encrypt answer's size. What it costs
//! is the limit that no proxy on hyper goes below, and what the load program does against it is the load program's own.
//!
//!     cargo xtask bench bare --port 8090

#![expect(clippy::disallowed_methods, reason = "a server opens its listener; it is measured, not simulated")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its user")]

use bytes::Bytes;
use clap::Parser;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::process::ExitCode;
use tokio::net::TcpListener;

/// The allocator of all measured programs of this project.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Well-formed, and of 64 bytes of plaintext, the load program's default.
const ANSWER: &str = r#"{"ciphertext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==","initializationVector":"AAAAAAAAAAAAAAAA","authenticationTag":"AAAAAAAAAAAAAAAAAAAAAA==","ciphertextMetadata":"AQE="}"#;

/// Answers every HTTP request with the same encrypt answer.
#[derive(Parser)]
#[command(name = "bare")]
struct Arguments {
    /// Port of 127.0.0.1 to listen on; 0 for any.
    #[arg(long, value_name = "N", default_value_t = 8090)]
    port: u16,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(serve(arguments.port)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare: cannot serve on port {}: {error}", arguments.port);
            ExitCode::from(2)
        }
    }
}

async fn serve(port: u16) -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on {}; Ctrl-C ends it", listener.local_addr()?);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        // Out of descriptors, or a client that has gone already: the others are served.
        let Ok((stream, _)) = accepted else { continue };
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            // A client that goes away in the middle is none of a bare server's business.
            let _ = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    request.into_body().collect().await?;
    let mut response = Response::new(Full::new(Bytes::from_static(ANSWER.as_bytes())));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}
