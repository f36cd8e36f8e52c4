//! Helper commands that tell a secret: a client of a vault, a decrypting script.
//!
//! Place on the map: part of `build`, used by `secret`. No shell, no input, a limit on time and on output; nothing of the
//! output ever reaches an error.

use super::super::HelperCommand;

/// What the command wrote to its standard output.
///
/// # Errors
/// The end of a sentence that begins with the command: what happened, and what to do.
#[cfg(feature = "daemon")]
pub(super) use running::output;

/// Without the feature `daemon` nothing can start programs.
#[cfg(not(feature = "daemon"))]
pub(super) fn output(_: &HelperCommand) -> Result<Vec<u8>, String> {
    Err("cannot be run by a build without the feature `daemon`: use a file or the environment".to_owned())
}

#[cfg(feature = "daemon")]
mod running {
    use super::HelperCommand;
    use std::process::Stdio;
    use std::time::Duration;
    use tokio::io::{AsyncRead, AsyncReadExt};
    use tokio::process::{Child, Command};
    use tokio::sync::oneshot;
    use tokio::time::{sleep, timeout};
    use zeroize::{Zeroize, Zeroizing};

    /// From start to exit. Long enough for a vault on another continent.
    const TIME_LIMIT: Duration = Duration::from_secs(10);

    /// Many times what a PIN or a secret access key has.
    const OUTPUT_BYTES_MAX: usize = 4_096;

    /// What is kept of standard error; the rest is read and dropped, so that the command does not block on it.
    const COMPLAINT_BYTES_MAX: usize = 1_024;

    /// What is repeated of it.
    const COMPLAINT_CHARS_MAX: usize = 200;

    /// How long the last words of a command that has ended may take.
    const LAST_WORDS_LIMIT: Duration = Duration::from_millis(100);

    pub(in super::super) fn output(command: &HelperCommand) -> Result<Vec<u8>, String> {
        // A configuration is built inside and outside of runtimes. A runtime within another must have a thread of its
        // own, and this one ends before the function does.
        std::thread::scope(|scope| scope.spawn(|| run_here(command)).join())
            .unwrap_or_else(|_| Err("could not be waited for: try again".to_owned()))
    }

    fn run_here(command: &HelperCommand) -> Result<Vec<u8>, String> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot be run ({error}): raise the limits on files and threads"))?
            .block_on(run(command))
    }

    async fn run(command: &HelperCommand) -> Result<Vec<u8>, String> {
        let mut child = Command::new(&command.program)
            .args(&command.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("does not start ({error}): correct its path and permissions"))?;
        let told = timeout(TIME_LIMIT, listen(&mut child)).await;
        // Killed if it still runs, and waited for, so that it leaves no zombie. What it has started itself is its own.
        let _ = child.kill().await;
        told.unwrap_or_else(|_| {
            Err(format!(
                "has not ended, and closed its output, within {} s and was killed: make it faster",
                TIME_LIMIT.as_secs()
            ))
        })
    }

    async fn listen(child: &mut Child) -> Result<Vec<u8>, String> {
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err("has no output: try again".to_owned());
        };
        let mut complaint = Vec::with_capacity(COMPLAINT_BYTES_MAX);
        let mut output = Zeroizing::new(Vec::with_capacity(OUTPUT_BYTES_MAX + 1));
        let (over, is_over) = oneshot::channel::<()>();
        let end = async {
            let ended = match read_limited(stdout, &mut output).await {
                Ok(()) => child
                    .wait()
                    .await
                    .map_err(|error| format!("could not be waited for ({error}): try again")),
                Err(error) => Err(error),
            };
            drop(over);
            ended
        };
        // A process that it left behind may hold standard error open for ever.
        let enough = async {
            let _ = is_over.await;
            sleep(LAST_WORDS_LIMIT).await;
        };
        let complaints = async {
            tokio::select! {
                () = keep_first(stderr, &mut complaint) => {}
                () = enough => {}
            }
        };
        let (ended, ()) = tokio::join!(end, complaints);
        let status = ended?;
        if status.success() {
            return Ok(std::mem::take(&mut *output));
        }
        Err(format!("ended with {status}{}: run it by hand as this user", words(&complaint, &output)))
    }

    async fn read_limited(mut from: impl AsyncRead + Unpin, to: &mut Vec<u8>) -> Result<(), String> {
        // The buffer has this capacity from the start, and is not moved.
        while to.len() <= OUTPUT_BYTES_MAX {
            let mut rest = (&mut from).take((OUTPUT_BYTES_MAX + 1 - to.len()) as u64);
            let read = rest.read_buf(to).await;
            if read.map_err(|error| format!("has an output that cannot be read ({error}): try again"))? == 0 {
                return Ok(());
            }
        }
        Err(format!("writes more than {OUTPUT_BYTES_MAX} bytes: it must write the secret and nothing else"))
    }

    /// Reads to the end, and keeps the beginning.
    async fn keep_first(mut from: impl AsyncRead + Unpin, to: &mut Vec<u8>) {
        let mut piece = [0; 512];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            let room = COMPLAINT_BYTES_MAX - to.len();
            to.extend_from_slice(&piece[..length.min(room)]);
        }
        piece.zeroize();
    }

    /// The first line of a complaint, fit for an error, unless it repeats what must not be repeated.
    fn words(complaint: &[u8], output: &[u8]) -> String {
        let complaint = String::from_utf8_lossy(complaint);
        let line = complaint.lines().next().unwrap_or_default().trim();
        let output = String::from_utf8_lossy(output);
        let secret = output.trim();
        if line.is_empty() {
            return String::new();
        }
        if !secret.is_empty() && line.contains(secret) {
            return " and says what it must not".to_owned();
        }
        let short: String = line.chars().take(COMPLAINT_CHARS_MAX).flat_map(printable).collect();
        format!(" and says {short:?}")
    }

    fn printable(c: char) -> Option<char> {
        Some(if c.is_control() { ' ' } else { c })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// The clock of the runtime jumps to the limit as soon as there is nothing but a process to wait for.
        #[tokio::test(start_paused = true)]
        async fn a_command_that_does_not_end_is_killed_and_waited_for() {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("id");
            // `exec` keeps the process, and so its id.
            let script = format!("echo $$ > {}; exec sleep 100000", file.display());
            let command = HelperCommand { program: "/bin/sh".into(), arguments: vec!["-c".into(), script] };
            // Starting takes real time, of which a paused clock knows nothing: a first try may be killed before it has
            // said its id.
            let id = loop {
                let error = run(&command).await.unwrap_err();
                assert_eq!(
                    error,
                    "has not ended, and closed its output, within 10 s and was killed: make it faster"
                );
                match std::fs::read_to_string(&file) {
                    Ok(id) if !id.is_empty() => break id,
                    _ => {}
                }
            };
            assert!(!std::path::Path::new("/proc").join(id.trim()).exists(), "neither running nor a zombie");
        }
    }
}
