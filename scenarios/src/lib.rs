//! The harness: the real XKS proxy core in a world that can go wrong, in virtual time and always the same way.
//!
//! # How to write a scenario
//!
//! A scenario is a TOML file; everything in it has a default. The smallest useful one:
//!
//! ```toml
//! title = "The HSM is gone for a minute"
//! duration_s = 300
//!
//! [[fault]]
//! kind = "hsm-down"
//! from_s = 60
//! to_s = 120
//!
//! [[expect]]
//! recovered_within_s = 5
//! ```
//!
//! `xks-sim run FILE` runs it; `xks-sim show hsm-outage` prints a longer one. Every section and key is documented at
//! [`scenario`]; an unknown key is refused with its line and the nearest known one.
//!
//! # The map
//!
//! From the bottom up:
//!
//! | module | what it is |
//! |---|---|
//! | [`clock`] | virtual time, exact to the nanosecond, free while nothing happens |
//! | [`streams`] | one seed, one random stream per part |
//! | [`net`] | links and TCP |
//! | [`hsm_link`] | the network between proxies and HSMs |
//! | [`environment`], [`simulated_tls`], [`balancer`] | wall time, TLS, and the endpoint in front of the proxies |
//! | [`kms`] | the model of AWS KMS |
//! | [`services`] | its callers: S3, EBS, EC2, Lambda, DynamoDB, RDS |
//! | [`fault`], [`scenario`], [`catalogue`] | what goes wrong, and the files that say so |
//! | [`intruder`] | somebody without a credential |
//! | [`world`] | all of it together; start at [`world::live`] |
//! | [`trace`], [`recording`], [`gauges`], [`invariants`] | what happened, its digest, how full it was, and what must always hold |
//! | [`observer`], [`request`], [`replay`], [`trace_file`] | a run looked at event by event: kept in a file, done again, written out |
//! | [`run`], [`result`], [`report`], [`explain`] | from a scenario to a page |
//! | [`stages`], [`budget`] | where the time of proxy calls goes |
//! | [`draft`] | from a few answers to a scenario |
//! | [`sweep`], [`compare`], [`size`], [`statistics`] | "what if?": many runs, and what they say together |
//! | [`hostile`] | malformed, forged and hostile requests for any proxy, over real sockets |
//! | [`kms_endpoint`] | the model of KMS for SDKs and the AWS CLI, over real sockets, in front of a real proxy |
//! | [`real_endpoint`] | the way to a real proxy, for the last two |
//! | [`real_hsm`] | a real PKCS#11 library behind the simulated HSMs |

#![forbid(unsafe_code)]

#[cfg(not(tokio_unstable))]
compile_error!(
    "build with --cfg tokio_unstable (it is set in .cargo/config.toml; an environment variable RUSTFLAGS overrides that file): \
     the simulation seeds tokio's own random choices with it"
);

pub mod balancer;
pub mod budget;
pub mod catalogue;
pub mod clock;
pub mod compare;
pub mod draft;
pub mod environment;
pub mod explain;
pub mod fault;
pub mod gauges;
pub mod hostile;
pub mod hsm_link;
pub mod intruder;
pub mod invariants;
pub mod kms;
pub mod kms_endpoint;
pub mod net;
pub mod observer;
pub mod processor;
pub mod real_endpoint;
pub mod real_hsm;
pub mod recording;
pub mod replay;
pub mod report;
pub mod request;
pub mod result;
pub mod run;
mod samples;
pub mod scenario;
pub mod services;
mod sha256;
mod sheet;
pub mod simulated_tls;
pub mod size;
pub mod stages;
pub mod statistics;
pub mod streams;
pub mod sweep;
pub mod trace;
pub mod trace_file;
pub mod world;
