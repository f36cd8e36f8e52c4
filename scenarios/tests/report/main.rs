//! The report of a run: its forms as text, and its page in a real headless Chromium.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, where a panic is a failed test")]

mod axe;
mod browser;
mod chromium;
mod forms;
mod rendering;
mod sample;
mod series;
