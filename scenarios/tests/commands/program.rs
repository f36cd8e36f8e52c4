//! The program as its user starts it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What it prints and how it ends, without colours.
pub(crate) fn xks_sim(directory: &Path, arguments: &[&str]) -> Output {
    command(directory, arguments).stdin(Stdio::null()).output().unwrap()
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xks-sim"));
    command.current_dir(directory).args(arguments).env("NO_COLOR", "1");
    command
}

/// Exit code 2, nothing on stdout, one line on stderr: that line.
pub(crate) fn mistake(directory: &Path, arguments: &[&str]) -> String {
    let output = xks_sim(directory, arguments);
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert_eq!(stdout(&output), "", "{arguments:?}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{arguments:?}: {stderr}");
    stderr.trim_end().to_owned()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// What is left after Ctrl-C, pressed once the program has said `announced`, or, if it says nothing before it ends, once it
/// heeds Ctrl-C; on stderr, what it said afterwards.
pub(crate) fn interrupted(directory: &Path, arguments: &[&str], announced: Option<&str>) -> Output {
    let mut running = command(directory, arguments);
    let mut running = running.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Open until the program has ended: it may have more to say.
    let mut told = BufReader::new(running.stderr.take().unwrap()).lines();
    match announced {
        Some(announced) => {
            let line = told.next().unwrap().unwrap();
            assert!(line.starts_with(announced), "{line}");
        }
        None => {
            // A handler that is being installed swallows a signal; what has worked for a while has installed it.
            while !(heeds_ctrl_c(running.id()) && has_worked(running.id())) {
                assert!(running.try_wait().unwrap().is_none(), "it ended before it heeded Ctrl-C");
                std::thread::yield_now();
            }
        }
    }
    assert!(Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap().success());
    let said: Vec<String> = told.map_while(Result::ok).collect();
    let output = running.wait_with_output().unwrap();
    Output { stderr: said.join("\n").into_bytes(), ..output }
}

/// Whether the process has taken a tenth of a second of processor time: more than it takes to begin.
fn has_worked(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the program's name in parentheses: state, and at 11 and 12 user and system time in hundredths of a second.
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let times: u64 =
        after_name.split_whitespace().skip(11).take(2).map(|it| it.parse::<u64>().unwrap()).sum();
    times >= 10
}

/// Whether the process has a handler for SIGINT, as the kernel tells.
fn heeds_ctrl_c(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << 1 != 0
}
