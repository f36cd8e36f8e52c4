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

use softhsm::SPARE;
use stand::{Ask, PATIENCE, Stand, alone, settings};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use xks_proxy::hsm::Hsm;
use xks_proxy::hsm::pkcs11::{Pkcs11Hsm, Pkcs11Settings, TokenChoice};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Secret;

const CYCLES: usize = 1_000;
const SESSIONS: usize = 4;

/// What is warm after so many cycles stays.
const WARM: usize = 200;

/// SoftHSM2 and the allocator keep some of what they get; a session or thread left behind in each cycle is far more.
const GROWTH_MAX_KIB: usize = 8 * 1024;

/// A return value of the function that begins an encryption, once.
macro_rules! once {
    ($rv:literal) => {
        concat!(
            "[[fault]]\nfunction = \"C_EncryptInit\"\naction = \"return\"\nrv = \"",
            $rv,
            "\"\ncount = 1\n"
        )
    };
}

/// Something that happens to the library as an encryption begins, and then a function that fails twice.
macro_rules! then_failing {
    ($action:literal, $function:literal, $rv:literal) => {
        concat!(
            "[[fault]]\nfunction = \"C_EncryptInit\"\naction = \"",
            $action,
            "\"\ncount = 1\n",
            "[[fault]]\nfunction = \"",
            $function,
            "\"\naction = \"return\"\nrv = \"",
            $rv,
            "\"\ncount = 2\n"
        )
    };
}

/// Something that happens as an encryption begins, once.
macro_rules! event {
    ($action:literal) => {
        concat!("[[fault]]\nfunction = \"C_EncryptInit\"\naction = \"", $action, "\"\ncount = 1\n")
    };
}

/// The faults that the proxy heals from by itself, as control files.
const FAULTS: [&str; 21] = [
    once!("CKR_DEVICE_ERROR"),
    once!("CKR_DEVICE_REMOVED"),
    once!("CKR_TOKEN_NOT_PRESENT"),
    once!("CKR_SESSION_HANDLE_INVALID"),
    once!("CKR_SESSION_CLOSED"),
    once!("CKR_USER_NOT_LOGGED_IN"),
    once!("CKR_KEY_HANDLE_INVALID"),
    once!("CKR_OBJECT_HANDLE_INVALID"),
    once!("CKR_CRYPTOKI_NOT_INITIALIZED"),
    once!("CKR_GENERAL_ERROR"),
    once!("CKR_FUNCTION_FAILED"),
    event!("drop-sessions"),
    event!("logout"),
    event!("finalize"),
    event!("swap-handles"),
    event!("hang"),
    then_failing!("drop-sessions", "C_OpenSession", "CKR_SESSION_COUNT"),
    then_failing!("drop-sessions", "C_OpenSession", "CKR_TOKEN_NOT_PRESENT"),
    // A failure that may be about the PIN is followed by a second without any login, which a thousand cycles have no time for.
    then_failing!("drop-sessions", "C_Login", "CKR_DEVICE_ERROR"),
    then_failing!("finalize", "C_Initialize", "CKR_GENERAL_ERROR"),
    "[[fault]]\nfunction = \"*\"\naction = \"return\"\nrv = \"CKR_DEVICE_ERROR\"\ncount = 4\n",
];

#[derive(Debug)]
struct Footprint {
    threads: usize,
    descriptors: usize,
    resident_kib: usize,
}

impl Footprint {
    /// Once each session has been opened anew, whatever the last faults have left, and there are no more than that.
    async fn of(stand: &Stand) -> Self {
        stand.shim.faults(once!("CKR_DEVICE_REMOVED"));
        stand.ask(Ask::Encrypt).await;
        stand.heal(Ask::Encrypt).await;
        let settled = || (stand.hsm.stats().idle, stand.hsm.set_aside()) == (SESSIONS, 0);
        stand.until(|stats| stats["sessions_open"] == SESSIONS && settled()).await;
        let count = |path| std::fs::read_dir(path).unwrap().count();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            threads: count("/proc/self/task"),
            descriptors: count("/proc/self/fd"),
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
        match FAULTS.get(cycle % (FAULTS.len() + 1)) {
            Some(faults) => {
                stand.shim.faults(faults);
                stand.ask(Ask::Encrypt).await;
            }
            None => be_refused(&stand).await,
        }
        stand.heal(Ask::Encrypt).await;
    }
    let (warm, end) = (warm.unwrap(), Footprint::of(&stand).await);
    println!("{warm:?}\n{end:?}");
    assert_eq!(end.threads, warm.threads);
    assert!(end.descriptors <= warm.descriptors, "{end:?} after {warm:?}");
    assert!(end.resident_kib <= warm.resident_kib + GROWTH_MAX_KIB, "{end:?} after {warm:?}");
    stand.close();
}

/// A refused PIN is never tried again, so each time it is another HSM's: the neighbouring token of the same library, started
/// with a wrong PIN, refused, asked and closed.
async fn be_refused(stand: &Stand) {
    let settings = Pkcs11Settings {
        token: TokenChoice::Label(SPARE.into()),
        pin: Secret::new("wrong".into()),
        ..settings(1)
    };
    let hsm = Pkcs11Hsm::start_on(Arc::clone(&stand.module), settings).unwrap();
    let give_up_at = Instant::now() + PATIENCE;
    loop {
        // The library may be on its way back from the fault before.
        let error = hsm.describe(&KeyName::label("known"), give_up_at).await.unwrap_err();
        if error.detail.contains("refuses the PIN") {
            break;
        }
        assert!(Instant::now() < give_up_at, "{error}");
    }
    assert!(hsm.close(PATIENCE), "a thread does not end");
}
