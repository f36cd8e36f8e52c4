//! The fuzz targets as a program. Built by `cargo xtask fuzz` it is libFuzzer; built plainly it runs the inputs it is
//! given once each, which is all that a debugger needs.

#![cfg_attr(fuzzing, no_main)]

/// libFuzzer hands its own command line on to the programs it starts itself, so the target's name comes beside it.
#[cfg(fuzzing)]
mod engine {
    use std::cell::RefCell;

    thread_local! {
        // libFuzzer calls a bare function, always on the same thread, so this is the one place where a body can be kept.
        static BODY: RefCell<fuzz::Body> = RefCell::new(open());
    }

    #[expect(clippy::disallowed_methods, reason = "libFuzzer takes no arguments but its own")]
    fn open() -> fuzz::Body {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        match fuzz::Target::find(&name) {
            Some(target) => (target.open)(),
            None => panic!("FUZZ_TARGET={name:?} is no target: start this with `cargo xtask fuzz`"),
        }
    }

    libfuzzer_sys::fuzz_target!(|data: &[u8]| BODY.with_borrow_mut(|body| body(data)));
}

#[cfg(not(fuzzing))]
#[expect(clippy::print_stderr, reason = "a command line tool talks to its user")]
fn main() -> std::process::ExitCode {
    use std::process::ExitCode;
    let mut arguments = std::env::args().skip(1);
    let Some(target) = arguments.next().and_then(|name| fuzz::Target::find(&name)) else {
        let names: Vec<&str> = fuzz::TARGETS.iter().map(|target| target.name).collect();
        eprintln!("Usage: fuzz TARGET FILE..., where TARGET is one of {}", names.join(", "));
        return ExitCode::from(2);
    };
    let mut body = (target.open)();
    for file in arguments {
        match std::fs::read(&file) {
            Ok(input) => body(&input),
            Err(error) => {
                eprintln!("fuzz: {file}: {error}");
                return ExitCode::from(2);
            }
        }
        eprintln!("{file}: nothing found");
    }
    ExitCode::SUCCESS
}
