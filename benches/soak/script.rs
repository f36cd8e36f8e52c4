//! What happens during the run: a fault after another, and in between new credentials and certificates.
//!
//! Place on the map: run by `main` beside the clients.

use crate::daemon::Daemon;
use crate::tally::{Fault, Tally};
use crate::world::{RECOVERY_MAX, World};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How long a fault lasts.
const FAULT: Duration = Duration::from_secs(3);

/// How long it is quiet after one, its recovery included.
const QUIET: Duration = Duration::from_secs(5);

/// How often the daemon's use of memory and threads is read.
const SAMPLE: Duration = Duration::from_secs(1);

/// How long a request that began with the old credential may still be on its way.
const IN_FLIGHT_MAX: Duration = Duration::from_secs(1);

/// The faults, in turn: a name for the table, and the control file of the fault-injecting module. Bits flip in ciphertexts
/// only: those the integrity value catches (XKS-ENC-9). Who decrypts has nothing to hold a plaintext against.
const FAULTS: [(&str, &str); 10] = [
    (
        "CKR_DEVICE_ERROR from every call",
        r#"[[fault]]
function = "*"
action = "return"
rv = "CKR_DEVICE_ERROR"
"#,
    ),
    (
        "every session closed under the proxy",
        r#"[[fault]]
function = "*"
action = "drop-sessions"
every = 50
"#,
    ),
    (
        "CKR_TOKEN_NOT_PRESENT, the token is pulled out",
        r#"[[fault]]
function = "*"
action = "return"
rv = "CKR_TOKEN_NOT_PRESENT"
"#,
    ),
    (
        "logged out under the proxy",
        r#"[[fault]]
function = "C_EncryptInit"
action = "logout"
every = 50
"#,
    ),
    (
        "calls that hang",
        r#"[[fault]]
function = ["C_Encrypt", "C_Decrypt"]
action = "hang"
every = 20
"#,
    ),
    (
        "CKR_GENERAL_ERROR now and then",
        r#"[[fault]]
function = ["C_EncryptInit", "C_DecryptInit"]
action = "return"
rv = "CKR_GENERAL_ERROR"
every = 7
"#,
    ),
    (
        "the HSM takes half a second",
        r#"[[fault]]
function = ["C_Encrypt", "C_Decrypt"]
action = "delay"
ms = 500
"#,
    ),
    (
        "the library loses its state",
        r#"[[fault]]
function = "C_EncryptInit"
action = "finalize"
count = 3
every = 200
"#,
    ),
    (
        "bits flip in the ciphertexts the HSM makes",
        r#"[[fault]]
function = "C_Encrypt"
action = "corrupt"
every = 5
"#,
    ),
    (
        "no session to be had",
        r#"[[fault]]
function = "*"
action = "return"
rv = "CKR_SESSION_HANDLE_INVALID"
every = 3

[[fault]]
function = "C_OpenSession"
action = "return"
rv = "CKR_SESSION_COUNT"
"#,
    ),
];

pub(crate) struct Script {
    world: Arc<World>,
    tally: Arc<Tally>,
    module: PathBuf,
    began: Instant,
    told_at: Instant,
}

impl Script {
    pub(crate) fn new(world: Arc<World>, tally: Arc<Tally>, module: PathBuf) -> Self {
        Self { world, tally, module, began: Instant::now(), told_at: Instant::now() }
    }

    /// Runs for `duration`, to the end of the change at hand.
    pub(crate) async fn run(mut self, daemon: &mut Daemon, duration: Duration) -> Result<(), String> {
        self.wait(daemon, QUIET).await;
        for round in 0_usize.. {
            if self.began.elapsed() + FAULT + QUIET > duration {
                break;
            }
            let Some((name, faults)) = FAULTS.get(round % FAULTS.len()) else { break };
            self.fault(daemon, name, faults).await?;
            match round % 3 {
                0 => self.rotate_credential(daemon).await?,
                1 => self.renew_certificate(daemon).await?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Lets time pass, looking at the daemon meanwhile.
    async fn wait(&mut self, daemon: &mut Daemon, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            sleep(SAMPLE.min(until - Instant::now())).await;
            daemon.catch_up();
            if let Some(usage) = daemon.usage() {
                self.tally.used(usage);
            }
            if self.told_at.elapsed() > Duration::from_secs(30) {
                self.told_at = Instant::now();
                println!("{:>5} s  {}", self.began.elapsed().as_secs(), self.tally.progress());
            }
        }
    }

    async fn fault(&mut self, daemon: &mut Daemon, name: &'static str, faults: &str) -> Result<(), String> {
        let (_, excused_before) = self.tally.answers();
        self.world.begin(faults)?;
        self.wait(daemon, FAULT).await;
        self.world.calm_down()?;
        let ended = self.world.ended_at().unwrap_or_else(Instant::now);
        let (right, _) = self.tally.answers();
        let mut recovered_after = None;
        while ended.elapsed() < QUIET {
            if self.tally.answers().0 > right {
                recovered_after = Some(ended.elapsed());
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        self.wait(daemon, QUIET.saturating_sub(ended.elapsed())).await;
        let (_, excused) = self.tally.answers();
        let recovered_after = recovered_after.filter(|after| *after <= RECOVERY_MAX);
        self.tally.fault(Fault { name, excused: excused - excused_before, recovered_after });
        Ok(())
    }

    /// Two credentials live, clients change over, the old one goes. By file watch.
    async fn rotate_credential(&mut self, daemon: &mut Daemon) -> Result<(), String> {
        let signer = self.world.add_credential();
        daemon.catch_up();
        self.world.write_config(&self.module)?;
        daemon.hear(r#""message":"reloaded""#).await?;
        self.world.sign_with(signer);
        self.wait(daemon, IN_FLIGHT_MAX).await;
        self.world.drop_old_credentials();
        daemon.catch_up();
        self.world.write_config(&self.module)?;
        daemon.hear(r#""message":"reloaded""#).await?;
        self.tally.credential_changed();
        Ok(())
    }

    /// A new key and certificate. By SIGHUP, at once, as a hook of certbot would.
    async fn renew_certificate(&mut self, daemon: &mut Daemon) -> Result<(), String> {
        daemon.catch_up();
        self.world.new_certificate()?;
        daemon.send_hangup().await?;
        daemon.hear(r#""message":"reloaded""#).await?;
        self.tally.certificate_changed();
        Ok(())
    }
}
