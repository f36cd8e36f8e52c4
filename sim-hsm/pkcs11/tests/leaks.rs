//! A thousand faults leave nothing behind.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "common/shim.rs"]
mod shim;
#[path = "../../../proxy/tests/common/softhsm.rs"]
#[allow(dead_code, reason = "the proxy's tests use the rest")]
mod softhsm;
#[path = "common/stand.rs"]
mod stand;
#[path = "../../../proxy/tests/support/mod.rs"]
mod support;

use stand::{Ask, Stand, alone, settings};
use std::time::Duration;

const CYCLES: usize = 1_000;
const SESSIONS: usize = 4;

/// What is warm after so many cycles stays.
const WARM: usize = 200;

/// SoftHSM2 and the allocator keep some of what they get; a session or thread left behind in each cycle is far more.
const GROWTH_MAX_KIB: usize = 8 * 1024;

const FAULTS: [(&str, &str); 9] = [
    ("C_EncryptInit", "action = \"return\"\nrv = \"CKR_DEVICE_ERROR\"\ncount = 1"),
    ("C_EncryptInit", "action = \"return\"\nrv = \"CKR_DEVICE_REMOVED\"\ncount = 1"),
    ("C_EncryptInit", "action = \"return\"\nrv = \"CKR_SESSION_CLOSED\"\ncount = 1"),
    ("C_EncryptInit", "action = \"drop-sessions\"\ncount = 1"),
    ("C_EncryptInit", "action = \"logout\"\ncount = 1"),
    ("C_EncryptInit", "action = \"finalize\"\ncount = 1"),
    ("C_EncryptInit", "action = \"swap-handles\"\ncount = 1"),
    ("C_EncryptInit", "action = \"hang\"\ncount = 1"),
    ("*", "action = \"return\"\nrv = \"CKR_DEVICE_ERROR\"\ncount = 4"),
];

#[derive(Debug)]
struct Footprint {
    threads: usize,
    descriptors: usize,
    sessions: u64,
    resident_kib: usize,
}

impl Footprint {
    /// Once all sessions are open again, and the threads that were set aside have ended.
    async fn of(stand: &Stand) -> Self {
        stand.until(|stats| stats["sessions_open"] == SESSIONS && stand.hsm.set_aside() == 0).await;
        let count = |path| std::fs::read_dir(path).unwrap().count();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            threads: count("/proc/self/task"),
            descriptors: count("/proc/self/fd"),
            sessions: stand.stats()["sessions_open"].as_u64().unwrap(),
            resident_kib: resident.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }
}

#[tokio::test]
async fn a_thousand_faults_leave_nothing_behind() {
    let _alone = alone().await;
    let stand = Stand::healthy_with(settings(SESSIONS), Duration::from_millis(100)).await;
    let mut warm = None;
    for cycle in 0..CYCLES {
        if cycle == WARM {
            warm = Some(Footprint::of(&stand).await);
        }
        let (function, fault) = FAULTS[cycle % FAULTS.len()];
        stand.shim.fault(&format!("{function:?}"), fault);
        stand.ask(Ask::Encrypt).await;
        stand.heal(Ask::Encrypt).await;
    }
    let (warm, end) = (warm.unwrap(), Footprint::of(&stand).await);
    println!("{warm:?}\n{end:?}");
    assert_eq!((end.threads, end.sessions), (warm.threads, warm.sessions));
    assert!(end.descriptors <= warm.descriptors, "{end:?} after {warm:?}");
    assert!(end.resident_kib <= warm.resident_kib + GROWTH_MAX_KIB, "{end:?} after {warm:?}");
    stand.close();
}
