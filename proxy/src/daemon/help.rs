//! `xks-proxy completions` and `xks-proxy man`, made from the same description as `--help`.
//!
//! Place on the map: part of the binary.

use clap::Command;
use clap_complete::Shell;
use std::io::Write;
use std::path::Path;
use std::sync::LazyLock;

/// What `--version` says: what was built, and of what. Static, for that is what clap borrows.
pub(crate) static VERSION: LazyLock<String> = LazyLock::new(|| {
    let parts = [("cedar", cfg!(feature = "cedar")), ("otel", cfg!(feature = "otel"))];
    let parts: Vec<&str> = parts.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
    format!(
        "{}\nXKS proxy API v1, spec 1.0.3; PKCS#11 by cryptoki, TLS by rustls with aws-lc-rs\n{} {}, {} build, with: {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        if cfg!(debug_assertions) { "development" } else { "release" },
        if parts.is_empty() { "nothing optional".to_owned() } else { parts.join(", ") },
    )
});

/// A shell's completions on standard output.
pub(crate) fn completions(mut command: Command, shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "xks-proxy", &mut script);
    // clap_complete 4.6 writes the hyphen of a program's name in two ways into its script for bash, so that nothing
    // after a subcommand is completed: made one here.
    let script = String::from_utf8_lossy(&script).replace("xks__subcmd__proxy__", "xks__proxy__");
    // A closed standard output is the reader's choice.
    let _ = std::io::stdout().lock().write_all(script.as_bytes());
}

/// The manual: one page on standard output, or all pages, a file for each command, in a directory. The error is one line
/// for the user.
pub(crate) fn man(command: Command, out: Option<&Path>) -> Result<(), String> {
    let command = command.disable_help_subcommand(true);
    match out {
        Some(directory) => clap_mangen::generate_to(command, directory).map_err(|error| {
            format!(
                "cannot write the manual into {} ({error}): name an existing directory",
                directory.display()
            )
        }),
        None => {
            let mut page = Vec::new();
            // Writing into memory does not fail.
            let _ = clap_mangen::Man::new(command).render(&mut page);
            let _ = std::io::stdout().lock().write_all(&page);
            Ok(())
        }
    }
}
