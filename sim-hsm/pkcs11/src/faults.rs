//! The faults in force, from a control file that may change at any time.
//!
//! Place on the map: `shim` asks at each call what is to happen to it.

use super::control::{Action, Fault, parse};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a call that hangs looks whether it still should.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

pub(crate) struct Faults {
    path: Option<PathBuf>,
    knows: fn(&str) -> bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stamp: Stamp,
    /// Each with the number of calls it concerned so far.
    faults: Vec<(Fault, u64)>,
}

/// What changes when a file does; all zero without a file.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    len: u64,
    inode: u64,
}

impl Faults {
    pub(crate) fn new(path: Option<PathBuf>, knows: fn(&str) -> bool) -> Self {
        Self { path, knows, state: Mutex::default() }
    }

    /// What is to happen to this call of `function`, in order. `idle`: how long its session was not used.
    pub(crate) fn due(&self, function: &str, idle: Option<Duration>) -> Vec<Fault> {
        let mut state = self.current();
        let mut due = Vec::new();
        for (fault, concerned) in &mut state.faults {
            let idle_enough = fault.idle.is_none_or(|least| idle.is_some_and(|idle| idle >= least));
            if !fault.concerns(function) || !idle_enough {
                continue;
            }
            *concerned += 1;
            let happens = *concerned % fault.every == 0;
            let used_up = fault.count.is_some_and(|count| *concerned / fault.every > count);
            if happens && !used_up {
                due.push(fault.clone());
                if matches!(fault.action, Action::Return(_)) {
                    break;
                }
            }
        }
        due
    }

    /// Returns when the control file does not hold `fault` any more.
    #[expect(clippy::disallowed_methods, reason = "a call that hangs occupies its thread: that is the fault")]
    pub(crate) fn wait_out(&self, fault: &Fault) {
        while self.current().faults.iter().any(|(held, _)| held == fault) {
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn current(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = &self.path else { return state };
        let stamp = std::fs::metadata(path).map_or_else(
            |_| Stamp::default(),
            |facts| Stamp {
                modified: (facts.mtime(), facts.mtime_nsec()),
                len: facts.len(),
                inode: facts.ino(),
            },
        );
        if stamp == state.stamp {
            return state;
        }
        state.stamp = stamp;
        let text = if stamp == Stamp::default() { Ok(String::new()) } else { std::fs::read_to_string(path) };
        match text.map_err(|error| error.to_string()).and_then(|text| parse(&text, self.knows)) {
            Ok(faults) => state.faults = faults.into_iter().map(|fault| (fault, 0)).collect(),
            Err(message) => complain(&format!("{}: {message}; the faults stay as they were", path.display())),
        }
        state
    }
}

/// One line on standard error: a loaded library has no other channel to whoever runs the program.
pub(crate) fn complain(message: &str) {
    // Written at once, so that the program's own lines do not get in between.
    let _ = std::io::stderr().write_all(format!("sim-hsm-pkcs11: {message}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        directory: tempfile::TempDir,
        faults: Faults,
    }

    impl Bench {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let faults = Faults::new(Some(directory.path().join("faults.toml")), |_| true);
            Self { directory, faults }
        }

        fn write(&self, text: &str) {
            let beside = self.directory.path().join("next.toml");
            std::fs::write(&beside, text).unwrap();
            std::fs::rename(beside, self.directory.path().join("faults.toml")).unwrap();
        }

        fn happens(&self, calls: usize) -> Vec<usize> {
            (1..=calls).filter(|_| !self.faults.due("C_Encrypt", None).is_empty()).collect()
        }
    }

    #[test]
    fn count_and_every_choose_the_calls() {
        let bench = Bench::new();
        assert_eq!(bench.happens(3), [] as [usize; 0], "no file, no faults");
        bench.write("[[fault]]\nfunction = \"*\"\naction = \"hang\"\ncount = 2");
        assert_eq!(bench.happens(4), [1, 2]);
        assert_eq!(bench.happens(4), [] as [usize; 0]);
        bench.write("[[fault]]\nfunction = \"*\"\naction = \"hang\"\nevery = 3");
        assert_eq!(bench.happens(7), [3, 6]);
        bench.write("[[fault]]\nfunction = \"*\"\naction = \"hang\"\nevery = 2\ncount = 1");
        assert_eq!(bench.happens(7), [2]);
        std::fs::remove_file(bench.directory.path().join("faults.toml")).unwrap();
        assert_eq!(bench.happens(3), [] as [usize; 0]);
    }

    #[test]
    fn a_broken_file_leaves_the_faults_as_they_were() {
        let bench = Bench::new();
        bench.write("[[fault]]\nfunction = \"*\"\naction = \"hang\"");
        assert_eq!(bench.happens(2), [1, 2]);
        bench.write("[[fault");
        assert_eq!(bench.happens(2), [1, 2]);
        bench.write("");
        assert_eq!(bench.happens(2), [] as [usize; 0]);
    }

    #[test]
    fn idle_faults_spare_sessions_in_use() {
        let bench = Bench::new();
        bench.write("[[fault]]\nfunction = \"*\"\naction = \"hang\"\nidle_ms = 50");
        let due = |idle| !bench.faults.due("C_Encrypt", idle).is_empty();
        assert!(!due(None), "a call without a session");
        assert!(!due(Some(Duration::from_millis(49))));
        assert!(due(Some(Duration::from_millis(50))));
    }

    #[test]
    fn the_first_return_ends_a_call() {
        let bench = Bench::new();
        bench.write(
            "[[fault]]\nfunction = \"*\"\naction = \"logout\"\n[[fault]]\nfunction = \"*\"\naction = \"return\"\nrv = 5\n\
             [[fault]]\nfunction = \"*\"\naction = \"corrupt\"",
        );
        let due = bench.faults.due("C_Encrypt", None);
        let actions: Vec<Action> = due.iter().map(|fault| fault.action).collect();
        assert_eq!(actions, [Action::Logout, Action::Return(5)]);
    }
}
