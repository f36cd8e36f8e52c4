//! Faults × operations, and the document made of what was found.

use crate::stand::{Ask, Stand, alone};
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;

/// Service has to be back so soon after the fault has gone.
const BACK_WITHIN: Duration = Duration::from_secs(2);

/// On a machine that does other things meanwhile, service has to be back in this many times as long, and answers have this
/// many deadlines. Whatever comes back only with the next minute's work, or never, is still found.
const ON_A_BUSY_MACHINE: u32 = 10;

/// So many requests are sent after the first while the fault lasts, or until one succeeds.
const NEXT: usize = 3;

/// How much later than its deadline an answer may come, for the machine's sake.
const DEADLINE_SLACK: Duration = Duration::from_millis(50);

/// A fault of the HSM.
pub(crate) struct Case {
    /// For the document.
    pub(crate) fault: &'static str,
    /// The control file; `{op}` stands for the function that begins the operation.
    control: &'static str,
}

macro_rules! passing {
    ($($rv:literal),*) => { [$(Case {
        fault: concat!("one call answers ", $rv),
        control: concat!("[[fault]]\nfunction = {op}\naction = \"return\"\nrv = \"", $rv, "\"\ncount = 1\n"),
    }),*] };
}

macro_rules! lasting {
    ($functions:literal, $where:literal: $($rv:literal),*) => { [$(Case {
        fault: concat!($where, " answers ", $rv),
        control: concat!("[[fault]]\nfunction = ", $functions, "\naction = \"return\"\nrv = \"", $rv, "\"\n"),
    }),*] };
}

const PASSING: [Case; 11] = passing!(
    "CKR_DEVICE_ERROR",
    "CKR_DEVICE_REMOVED",
    "CKR_TOKEN_NOT_PRESENT",
    "CKR_SESSION_HANDLE_INVALID",
    "CKR_SESSION_CLOSED",
    "CKR_USER_NOT_LOGGED_IN",
    "CKR_KEY_HANDLE_INVALID",
    "CKR_OBJECT_HANDLE_INVALID",
    "CKR_CRYPTOKI_NOT_INITIALIZED",
    "CKR_GENERAL_ERROR",
    "CKR_FUNCTION_FAILED"
);

const OUTAGES: [Case; 6] = lasting!("\"*\"", "every call":
    "CKR_DEVICE_ERROR", "CKR_DEVICE_REMOVED", "CKR_TOKEN_NOT_PRESENT", "CKR_CRYPTOKI_NOT_INITIALIZED",
    "CKR_GENERAL_ERROR", "CKR_FUNCTION_FAILED"
);

const REFUSALS: [Case; 5] = lasting!("{op}", "every operation":
    "CKR_SESSION_HANDLE_INVALID", "CKR_SESSION_CLOSED", "CKR_USER_NOT_LOGGED_IN", "CKR_KEY_HANDLE_INVALID",
    "CKR_OBJECT_HANDLE_INVALID"
);

const EVENTS: [Case; 11] = [
    Case {
        fault: "the library loses all sessions and gives their numbers out again",
        control: "[[fault]]\nfunction = {op}\naction = \"drop-sessions\"\ncount = 1\n",
    },
    Case {
        fault: "the user is logged out",
        control: "[[fault]]\nfunction = {op}\naction = \"logout\"\ncount = 1\n",
    },
    Case {
        fault: "the library is finalised by someone else",
        control: "[[fault]]\nfunction = {op}\naction = \"finalize\"\ncount = 1\n",
    },
    Case {
        fault: "a handle comes to name another key",
        control: "[[fault]]\nfunction = {op}\naction = \"swap-handles\"\ncount = 1\n",
    },
    Case {
        fault: "all sessions are lost, and handles name other keys",
        control: "[[fault]]\nfunction = {op}\naction = \"drop-sessions\"\ncount = 1\n\
                  [[fault]]\nfunction = {op}\naction = \"swap-handles\"\ncount = 1\n",
    },
    Case {
        fault: "sessions are lost, and C_Login fails (CKR_FUNCTION_FAILED)",
        control: "[[fault]]\nfunction = {op}\naction = \"drop-sessions\"\ncount = 1\n\
                  [[fault]]\nfunction = \"C_Login\"\naction = \"return\"\nrv = \"CKR_FUNCTION_FAILED\"\n",
    },
    Case {
        fault: "sessions are lost, and the session limit is reached (CKR_SESSION_COUNT)",
        control: "[[fault]]\nfunction = {op}\naction = \"drop-sessions\"\ncount = 1\n\
                  [[fault]]\nfunction = \"C_OpenSession\"\naction = \"return\"\nrv = \"CKR_SESSION_COUNT\"\n",
    },
    Case {
        fault: "the library is finalised, and C_Initialize fails (CKR_GENERAL_ERROR)",
        control: "[[fault]]\nfunction = {op}\naction = \"finalize\"\ncount = 1\n\
                  [[fault]]\nfunction = \"C_Initialize\"\naction = \"return\"\nrv = \"CKR_GENERAL_ERROR\"\n",
    },
    Case {
        fault: "one call never returns",
        control: "[[fault]]\nfunction = {op}\naction = \"hang\"\ncount = 1\n",
    },
    Case { fault: "no call returns", control: "[[fault]]\nfunction = \"*\"\naction = \"hang\"\n" },
    Case {
        fault: "a bit of one result of C_Encrypt or C_Decrypt is flipped",
        control: "[[fault]]\nfunction = [\"C_Encrypt\", \"C_Decrypt\"]\naction = \"corrupt\"\ncount = 1\n",
    },
];

/// All of them, in the document's order.
pub(crate) const CASES: [&[Case]; 4] = [&PASSING, &OUTAGES, &REFUSALS, &EVENTS];

/// One cell of the matrix.
#[derive(Debug)]
pub(crate) struct Row {
    fault: &'static str,
    ask: Ask,
    /// The answer to the first request under the fault.
    first: String,
    /// How often the HSM was asked for it.
    attempts: u64,
    /// The answer that it comes to with the next ones, while the fault lasts.
    then: String,
    /// The longest that any of them took.
    slowest: Duration,
    deadline: Duration,
    /// From the end of the fault to the next success.
    back_after: Duration,
}

impl Row {
    pub(crate) fn is_in_time(&self) -> bool {
        self.slowest <= self.deadline + DEADLINE_SLACK && self.back_after <= BACK_WITHIN
    }

    /// The same with a generous factor, for a machine that does other things too.
    pub(crate) fn is_roughly_in_time(&self) -> bool {
        self.slowest <= self.deadline * ON_A_BUSY_MACHINE
            && self.back_after <= BACK_WITHIN * ON_A_BUSY_MACHINE
    }
}

/// Tries each operation on a proxy that was well before.
pub(crate) async fn measure(cases: &'static [Case], deadline: Duration) -> Vec<Row> {
    let _alone = alone().await;
    let mut rows = Vec::new();
    for case in cases {
        for ask in Ask::ALL {
            let stand = Stand::healthy(deadline).await;
            let before = stand.attempts(ask);
            stand.shim.faults(&case.control.replace("{op}", &format!("{:?}", ask.function())));
            let (first, mut slowest) = timed(&stand, ask).await;
            let attempts = stand.attempts(ask) - before;
            let mut then = String::new();
            for _ in 0..NEXT {
                let (answer, time) = timed(&stand, ask).await;
                slowest = slowest.max(time);
                then = answer;
                if then == "200" {
                    break;
                }
            }
            let back_after = stand.heal(ask).await;
            rows.push(Row { fault: case.fault, ask, first, attempts, then, slowest, deadline, back_after });
            stand.close();
        }
    }
    rows
}

async fn timed(stand: &Stand, ask: Ask) -> (String, Duration) {
    let begun = Instant::now();
    let answer = stand.ask(ask).await;
    (answer, begun.elapsed())
}

/// The columns that do not depend on the machine: all but the last two.
pub(crate) fn verdicts(document: &str) -> Vec<String> {
    let without_times = |cells: Vec<&str>| cells[..cells.len().saturating_sub(TIMES)].join(" | ");
    rows(document).map(without_times).collect()
}

/// Whether what stands before and after the rows is what this program would write.
pub(crate) fn prose_is_current(document: &str) -> bool {
    document.starts_with(HEAD) && document.ends_with(FOOT)
}

/// The rows whose last two columns do not both say yes.
pub(crate) fn late_rows(document: &str) -> Vec<String> {
    let is_late = |cells: &Vec<&str>| {
        let times = &cells[cells.len().saturating_sub(TIMES)..];
        times.len() != TIMES || !times.iter().all(|cell| cell.starts_with("yes ("))
    };
    rows(document).filter(is_late).map(|cells| cells.join(" | ")).collect()
}

/// How many columns tell of time.
const TIMES: usize = 2;

/// The rows of the matrix, each in its cells.
fn rows(document: &str) -> impl Iterator<Item = Vec<&str>> {
    let is_row = |line: &&str| Ask::ALL.iter().any(|ask| line.contains(&format!(" | {} | ", ask.name())));
    document.lines().filter(is_row).map(|line| line.split(" | ").collect())
}

/// The whole of `proxy/RELIABILITY.md`.
pub(crate) fn document(rows: &[Row]) -> String {
    let mut text = String::from(HEAD);
    for row in rows {
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let within = |good: bool| if good { "yes" } else { "NO" };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} ({:.0} ms) | {} ({}) |",
            row.fault,
            row.ask.name(),
            row.first,
            row.attempts,
            row.then,
            within(row.slowest <= row.deadline + DEADLINE_SLACK),
            row.slowest.as_secs_f64() * 1e3,
            within(row.back_after <= BACK_WITHIN),
            seconds(row.back_after),
        );
    }
    text + FOOT
}

const HEAD: &str = "\
# What a fault of the HSM does to a request

Made by `cargo xtask reliability`; a test (`sim-hsm/pkcs11/tests/reliability.rs`) fails when it is out of date. Each row is
the whole proxy, from signed request to answer, over a real SoftHSM2 token, with one PKCS#11 session, the shipped deadline of
150 ms, and a module between that injects the fault (`sim-hsm/pkcs11`). *First answer*: what the first request under the
fault gets; in brackets the PKCS#11 return value that the audit log has. *Attempts*: how often the HSM was asked for it: a
call is repeated once, on a new session, when only the session was at fault. *While it lasts*: what it comes to for
those that follow. *In time*: every one of these answers came inside the deadline (the slowest). *Back within 2 s*: how long
after the end of the fault requests succeeded again, nobody having done anything.

| Fault | Operation | First answer | Attempts | While it lasts | In time | Back within 2 s |
| --- | --- | --- | --- | --- | --- | --- |
";

const FOOT: &str = "
Beyond the table, each with its test:

- A wrong PIN (CKR_PIN_INCORRECT, CKR_PIN_LOCKED, ...) is tried once, whatever the number of sessions and requests, and
  never again by that process: a few wrong PINs lock a token. Requests get 500 InternalException until the PIN is corrected
  and the daemon started again (`healing.rs`; which codes, in `proxy/src/hsm/pkcs11/settings.rs`).
- A C_Login that does not return holds up every other login with that token for 30 s, on purpose: nobody knows whether the
  token counts its PIN as a wrong one, and two at once could be the two that lock it. Sessions that are logged in serve on;
  requests that need a new one get 503 DependencyTimeoutException inside the deadline, and service resumes when it returns
  (`healing.rs`). If it has not after 30 s, another is tried beside it, but only with a PIN that the token has accepted
  before in this process; otherwise none until it returns or the daemon is started again (`proxy/src/hsm/pkcs11/login.rs`).
- A C_OpenSession that does not return costs its own thread; the others open theirs after half a second (`healing.rs`).
- A C_Initialize that does not return holds up everything that goes through that library, since none has to bear a second
  one beside it: 503 inside the deadline until it returns, and then service (`healing.rs`). Other libraries go on.
- A handle that comes to name another key is never used for a result that is given out: after each encrypt the HSM is asked
  whether the handle's object still has the attribute that the key is named by, the label or the id and not both: an object
  that bears that name is the one that a decrypt will find by it. A session whose number the library gives out a second time
  is given up (`healing.rs`, with both faults under load).
- SoftHSM2 answers a wrong tag with CKR_GENERAL_ERROR, which may also mean that the device is broken. The device then has to
  show that it works; only then the caller hears 400 InvalidCiphertextException, otherwise 500 InternalException
  (`healing.rs`).
- An HSM that is not there when the daemon starts does not keep it from starting (`healing.rs`).
- Idle sessions are used once in `session_idle_max_ms` (60 s), so that firewalls do not forget their connections; one that
  is dead is replaced before a request needs it. Where the trial itself does not return, because a firewall drops without a
  word, its session is replaced after a second, and requests that find no other one get 503 until then (`healing.rs`).
- 1,000 cycles of all these faults leave threads, descriptors, PKCS#11 sessions and memory as they were (`leaks.rs`).
- A library whose calls never return, not even after the HSM is back, costs a thread for each, `set_aside_max` (16) at most;
  beyond that, when its `sessions_max` threads hang too, requests are refused at once until some of them return, and
  GetHealthStatus says UNAVAILABLE of that HSM. A group goes on with the others, from other libraries too (`healing.rs`).
- A flipped bit in the answer of C_Decrypt, or of C_Encrypt where KMS does not ask for the integrity value (CDIV), is not
  noticed: PKCS#11 has nothing to notice it by.
";
