//! The daemon `xks-proxy`: arguments → configuration → HSMs → bind → serve → drain; and the commands around it.
//!
//! Exit codes: 0 served and drained, or looked and found well; 1 looked and found problems (`doctor`, `keys list`,
//! `policy test`); 2 anything else wrong, until somebody changes something; 3 `serve` could not start, but may later (a
//! helper command that failed, an address that cannot be bound, no threads, a certificate not valid yet). 2 and 3 come
//! with one line on standard error.

#![forbid(unsafe_code)]

mod daemon {
    pub(crate) mod check;
    pub(crate) mod credentials;
    pub(crate) mod doctor;
    pub(crate) mod failure;
    pub(crate) mod help;
    pub(crate) mod keys;
    pub(crate) mod listen;
    pub(crate) mod log;
    pub(crate) mod new_file;
    pub(crate) mod open_files;
    pub(crate) mod ops;
    pub(crate) mod policy;
    pub(crate) mod process;
    pub(crate) mod reload;
    pub(crate) mod serve;
    pub(crate) mod traces;
    pub(crate) mod watch;
}

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use daemon::failure::Failure;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// An AWS KMS External Key Store (XKS) proxy over any PKCS#11 HSM.
#[derive(Parser)]
#[command(name = "xks-proxy", version, long_version = daemon::help::VERSION.as_str())]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Where the configuration is.
#[derive(Args)]
struct ConfigFile {
    /// The configuration; config.example.toml shows every key.
    #[arg(long, value_name = "FILE", env = "XKS_PROXY_CONFIG", hide_env_values = true)]
    config: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT, then finish the requests at hand. SIGHUP, or a file that has changed, brings in new
    /// credentials, keys, rules and certificates.
    ///
    /// Ends with 0 when it was told to stop, 2 when somebody has to correct the configuration or its files first, 3 when
    /// trying again later may help: a helper command failed, an address cannot be bound, there are no threads, or the
    /// certificate is not valid yet because the clock is behind.
    Serve {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Check the configuration, log in to each HSM, look up each key that is named, and say what is found.
    ///
    /// Stops at the first mistake; `doctor` goes through everything.
    Check {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Look at everything the proxy needs, and say in plain words what is wrong and what to do.
    ///
    /// Configuration, files, module, token, PIN, keys, a trial encryption, speed, certificate, clock, port, limits, and
    /// how much of KMS's 250 ms is left. Changes nothing. Run it as the daemon's user, for others may read other files.
    /// A PIN is tried once, and not at all when one more wrong one would lock the token.
    /// Ends with 0 when nothing stands in the way of serving, 1 when something does, 2 when there is no configuration to
    /// look at.
    Doctor {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        options: daemon::doctor::Options,
    },
    /// Look at the keys in the HSMs.
    #[command(subcommand)]
    Keys(Keys),
    /// Make the credentials that KMS signs with.
    #[command(subcommand)]
    Credentials(Credentials),
    /// Write the JSON file that the KMS console takes for an external key store. It holds the secret.
    #[command(group = clap::ArgGroup::new("to").required(true))]
    ConsoleJson {
        #[command(flatten)]
        file: ConfigFile,
        /// The key store's name in the configuration.
        #[arg(long, value_name = "NAME")]
        key_store: String,
        /// Which of its credentials, if there are several.
        #[arg(long, value_name = "ID")]
        access_key_id: Option<String>,
        /// The file to make, readable for its owner only. An existing file is never overwritten.
        #[arg(long, value_name = "FILE", group = "to")]
        out: Option<PathBuf>,
        /// Show it, with the secret, on standard output.
        #[arg(long, group = "to")]
        show: bool,
    },
    /// Try access rules and policies before they are in service.
    Policy {
        #[command(subcommand)]
        command: daemon::policy::PolicyCommand,
    },
    /// Print the completions of a shell; for bash: xks-proxy completions bash > /etc/bash_completion.d/xks-proxy
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Print the manual page, or write the pages of all commands.
    Man {
        /// An existing directory, for a file each: xks-proxy.1, xks-proxy-serve.1 and so on.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(Subcommand)]
enum Keys {
    /// List the secret keys of each token, at most 1,000, and the external keys they serve as.
    ///
    /// Ends with 1 when the configuration names a key that is not there.
    List {
        #[command(flatten)]
        file: ConfigFile,
        /// The keys of this HSM only.
        #[arg(long, value_name = "NAME")]
        hsm: Option<String>,
        /// For programs: one JSON document.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Subcommand)]
enum Credentials {
    /// Make an access key id and a secret, the secret into a new file, and say how to change over to them.
    New {
        /// The configuration, to name the key store in what is said.
        #[arg(long, value_name = "FILE", env = "XKS_PROXY_CONFIG", hide_env_values = true)]
        config: Option<PathBuf>,
        /// The key store's name in the configuration.
        #[arg(long, value_name = "NAME")]
        key_store: Option<String>,
        /// The file to make for the secret, readable for its owner only; ID.secret here, when left out. An existing file
        /// is never overwritten.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Show the secret on standard output, too.
        #[arg(long)]
        show: bool,
    },
}

fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let outcome = match Arguments::parse().command {
        Command::Serve { file } => return end(daemon::serve::run(&file.config).map(done)),
        Command::Check { file } => daemon::check::run(&file.config).map(done),
        Command::Doctor { file, options } => daemon::doctor::run(&file.config, &options),
        Command::Keys(Keys::List { file, hsm, json }) => {
            daemon::keys::list(&file.config, hsm.as_deref(), json)
        }
        Command::Credentials(Credentials::New { config, key_store, out, show }) => {
            daemon::credentials::new(config.as_deref(), key_store.as_deref(), out, show).map(done)
        }
        Command::ConsoleJson { file, key_store, access_key_id, out, show: _ } => {
            let id = access_key_id.as_deref();
            daemon::credentials::console_json(&file.config, &key_store, id, out.as_deref()).map(done)
        }
        Command::Completions { shell } => {
            daemon::help::completions(Arguments::command(), shell);
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { out } => daemon::help::man(Arguments::command(), out.as_deref()).map(done),
        Command::Policy { command } => daemon::policy::run(command),
    };
    end(outcome.map_err(Failure::from))
}

fn end(outcome: Result<ExitCode, Failure>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(Failure { message, retriable }) => {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(std::io::stderr(), "xks-proxy: {message}");
            ExitCode::from(if retriable { 3 } else { 2 })
        }
    }
}
