//! The harness: the real XKS proxy core in a world that can go wrong.

pub mod kms;
pub mod report;
pub mod result;
pub mod services;
pub mod trace;
