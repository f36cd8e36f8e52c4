//! An emulated HSM. It protects nothing: its keys follow from a seed, and whoever has the seed has the keys.
//!
//! It is there to be failed on purpose. It models what a caller of an HSM can observe (keys and their usage flags,
//! AES-256-GCM, sessions, parallelism, queues, service times, PKCS#11 return codes) and nothing else, keeps nothing
//! across restarts of the process, and does the same every time it is given the same seed.
//!
//! The map; start at [`SimHsm::new`]:
//!
//! | module | what it is |
//! |---|---|
//! | [`backend`] | the data door: `impl xks_proxy::hsm::Hsm for SimHsm` |
//! | [`control`] | the control door: faults, restarts, key changes, counters and history |
//! | [`token`] | the device's inside: keys and AES-GCM; the [`Engine`] trait lets a real library stand in for it |
//! | [`capacity`] | how much it does at once: servers, sessions, queue |
//! | [`service_time`] | how long one operation takes |
//! | [`faults`] | what can go wrong |
//! | [`codes`] | PKCS#11 return codes and what they mean to the proxy |
//! | [`ledger`] | which IVs were used under which key |
//! | [`timer`] | virtual time |
//! | [`network`] | the data door over a network: a server, and a client of a vendor library's manners |
//!
//! # The fault model
//!
//! **Capacity.** `parallel_max` servers take operations in the order of their arrival. An operation holds one session
//! from its arrival until its server is done with it. Without a free session it is refused at once with
//! `CKR_SESSION_COUNT`; with all servers busy and the queue full it is refused at once too. Both are `Busy`.
//!
//! **Deadlines.** PKCS#11 cannot cancel. A caller whose deadline passes is told `TimedOut` at the deadline, a caller
//! that goes away is told nothing, and in both cases the device works on: session and server stay taken until the
//! work is done.
//!
//! **Down.** Every operation in flight fails at once with `CKR_DEVICE_REMOVED`, and so does each new one. A device that
//! comes back has free sessions and an empty queue; keys survive.
//!
//! **Slow ×k.** Operations whose server begins while the fault holds take k times as long. Those already being served
//! keep their time; those in the queue do not.
//!
//! **Hang.** The device's own clock stops. Nothing is answered, sessions and servers stay taken, new operations pile up
//! until sessions or queue are full, and callers are told `TimedOut` at their deadlines. When the hang ends the clock
//! goes on where it stopped, so that whoever still waits is answered then.
//!
//! **Error.** Operations fail with a given return code at a given rate, after their usual service time.
//!
//! **Session limit.** Somebody else has taken sessions: new operations are refused with `CKR_SESSION_COUNT` while as many as
//! are left are in use. Those that have one keep it.
//!
//! **Bit flips.** One bit of a share of what encrypt returns is wrong. The device says nothing, and nobody will ever decrypt
//! that: what an integrity value is for.
//!
//! **Background.** A [`FaultPlan`] adds rare faults of its own to every operation, so that callers cannot
//! count on a perfect device. [`FaultPlan::quiet`] switches that off.
//!
//! Several faults can hold at once. Down wins over hang, hang over the rest; factors of slow multiply.
//! Every kind of random draw has its own ChaCha20 stream, so one more draw of one kind never changes another.

#![forbid(unsafe_code)]

pub mod backend;
pub mod capacity;
pub mod codes;
pub mod control;
mod device;
pub mod faults;
pub mod ledger;
pub mod network;
pub mod service_time;
mod streams;
pub mod timer;
pub mod token;

pub use backend::{Configuration, SimHsm};
pub use capacity::Capacity;
pub use control::{Asked, Control, Counters, Occupancy, Operation, Outcome};
pub use faults::{Fault, FaultError, FaultId, FaultPlan};
pub use ledger::IvLedger;
pub use service_time::{ServiceTime, ServiceTimes};
pub use streams::key_bytes;
pub use timer::{Timer, TokioTimer};
pub use token::{Engine, KeySpecification, Token};
