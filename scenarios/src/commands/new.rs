//! `xks-sim new`: a few questions, or flags, and a commented scenario file of the user's own.

use super::exit;
use super::files::write_new;
use super::terminal::say;
use scenarios::draft::{self, Draft, OUTAGES};
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

/// Wrong answers to one question, after which there is no use in asking again.
const TRIES_MAX: u32 = 5;
/// Bytes of one answer.
const ANSWER_BYTES_MAX: u64 = 10_000;

/// The answers that are given on the command line.
#[derive(clap::Args)]
pub(crate) struct NewArguments {
    /// The file to write.
    #[arg(default_value = "my-company.toml")]
    file: PathBuf,
    /// The AWS services in use, with their requests per second where known: s3=200,ebs,dynamodb=50.
    #[arg(long, value_name = "LIST", value_parser = draft::services)]
    services: Option<Services>,
    /// Round trip between the AWS region and the proxies.
    #[arg(long, value_name = "MS", value_parser = draft::rtt_ms, allow_negative_numbers = true)]
    rtt_ms: Option<f64>,
    /// Proxies behind the endpoint.
    #[arg(long, value_name = "N", value_parser = |text: &str| draft::count("proxies", text))]
    proxies: Option<usize>,
    /// HSMs with the same keys.
    #[arg(long, value_name = "N", value_parser = |text: &str| draft::count("HSMs", text))]
    hsms: Option<usize>,
    /// What one HSM operation takes.
    #[arg(long, value_name = "MS", value_parser = draft::hsm_ms, allow_negative_numbers = true)]
    hsm_ms: Option<f64>,
    /// What goes wrong: hsm-down, one-hsm-down, hsm-slow, hsm-hang, partition, packet-loss, latency, proxy-crash,
    /// kill-switch, zone-loss, dns-failure, key-disabled or none.
    #[arg(long, value_name = "NAME", value_parser = |text: &str| draft::outage(text).map(|it| it.name))]
    outage: Option<&'static str>,
    /// For how long.
    #[arg(long, value_name = "SECONDS", value_parser = draft::outage_s)]
    outage_s: Option<u64>,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
}

/// Under a name of its own, for clap takes a `Vec` for an option that can be given several times.
type Services = Vec<draft::Use>;

/// Performs `xks-sim new`.
///
/// # Errors
/// In words: answers that cannot be, a file that is there already.
pub(crate) fn perform(arguments: &NewArguments) -> Result<u8, String> {
    if arguments.file.exists() && !arguments.force {
        return Err(already_there(arguments));
    }
    let asks = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let mut questions = if asks {
        Questions { from: Some(std::io::stdin().lock()), to: std::io::stderr() }
    } else {
        Questions { from: None, to: std::io::stderr() }
    };
    let draft = questions.all(arguments)?;
    let stem = arguments.file.file_stem().map_or_else(|| "scenario".into(), |stem| stem.to_string_lossy());
    let text = draft.file(&stem)?;
    write_new(&arguments.file, &text, arguments.force)?.ok_or_else(|| already_there(arguments))?;
    let file = arguments.file.display();
    say(&format!("written: {file}\nlook at it: xks-sim show {file}\nrun it:     xks-sim run {file}\n"))?;
    Ok(exit::HELD)
}

fn already_there(arguments: &NewArguments) -> String {
    format!(
        "{} is there already, and would be lost: name another file, or say --force",
        arguments.file.display()
    )
}

/// Asks what the flags have not said.
struct Questions<R, W> {
    /// Where answers come from; `None` takes the proposals.
    from: Option<R>,
    to: W,
}

impl<R: BufRead, W: Write> Questions<R, W> {
    fn all(&mut self, given: &NewArguments) -> Result<Draft, String> {
        let proposal = Draft::default();
        self.tell("Return takes the proposal in brackets.")?;
        let names: Vec<&str> = proposal.services.iter().map(|service| service.kind).collect();
        let services = self.ask(
            given.services.clone(),
            "Which AWS services use keys of the key store, with requests per second where you know, such as s3=200, ebs",
            &names.join(", "),
            draft::services,
        )?;
        let rtt = proposal.rtt_ms.to_string();
        let rtt_ms = self.ask(
            given.rtt_ms,
            "Round trip from the AWS region to the proxies, in ms",
            &rtt,
            draft::rtt_ms,
        )?;
        let proxies = self.ask(given.proxies, "How many proxies", &proposal.proxies.to_string(), |text| {
            draft::count("proxies", text)
        })?;
        let hsms = self.ask(given.hsms, "How many HSMs", &proposal.hsms.to_string(), |text| {
            draft::count("HSMs", text)
        })?;
        let hsm = proposal.hsm_ms.to_string();
        let hsm_ms = self.ask(given.hsm_ms, "What one HSM operation takes, in ms", &hsm, draft::hsm_ms)?;
        let outages = OUTAGES.iter().map(|outage| outage.name).collect::<Vec<_>>().join(", ");
        let so_far = Draft { services, rtt_ms, proxies, hsms, hsm_ms, ..proposal };
        // Whether it fits what there is shows here, where another can be chosen.
        let fitting = |text: &str| {
            let outage = draft::outage(text)?;
            Draft { outage, ..so_far.clone() }.check().map(|()| outage)
        };
        let outage_given = given.outage.map(fitting).transpose()?;
        let what = format!("What goes wrong ({outages})");
        let outage = self.ask(outage_given, &what, so_far.outage.name, fitting)?;
        let lasts = if outage.fault.is_empty() {
            Some(given.outage_s.unwrap_or(so_far.outage_s))
        } else {
            given.outage_s
        };
        let outage_s =
            self.ask(lasts, "For how many seconds", &so_far.outage_s.to_string(), draft::outage_s)?;
        Ok(Draft { outage, outage_s, ..so_far })
    }

    fn tell(&mut self, line: &str) -> Result<(), String> {
        if self.from.is_none() {
            return Ok(());
        }
        writeln!(self.to, "{line}").map_err(|error| format!("cannot ask: {error}"))
    }

    /// What was given; else what is answered; else what is proposed. Asks again after a wrong answer.
    fn ask<T>(
        &mut self,
        given: Option<T>,
        question: &str,
        proposal: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, String> {
        if let Some(given) = given {
            return Ok(given);
        }
        let Some(from) = &mut self.from else { return read(proposal) };
        let cannot = |error: std::io::Error| format!("cannot ask: {error}");
        let mut problem = String::new();
        for _ in 0..TRIES_MAX {
            write!(self.to, "{question} [{proposal}]: ").and_then(|()| self.to.flush()).map_err(cannot)?;
            let mut bytes = Vec::new();
            let read_bytes = std::io::Read::take(&mut *from, ANSWER_BYTES_MAX)
                .read_until(b'\n', &mut bytes)
                .map_err(cannot)?;
            if read_bytes == 0 {
                return Err("no answer: the input has ended, and no file is written".into());
            }
            let answer = String::from_utf8_lossy(&bytes);
            let answer = if answer.trim().is_empty() { proposal } else { answer.trim() };
            match read(answer) {
                Ok(value) => return Ok(value),
                Err(message) => {
                    problem = message.replace(char::is_control, " ");
                    writeln!(self.to, "  {problem}").map_err(cannot)?;
                }
            }
        }
        Err(format!("{problem}; asked {TRIES_MAX} times, and no file is written"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        new: NewArguments,
    }

    fn interview(flags: &[&str], answers: &str) -> (Result<Draft, String>, String) {
        let line = Line::parse_from([&["new"], flags].concat());
        let mut questions = Questions { from: Some(answers.as_bytes()), to: Vec::new() };
        let draft = questions.all(&line.new);
        (draft, String::from_utf8(questions.to).unwrap())
    }

    #[test]
    fn questions_are_asked_until_answered_and_flags_answer_theirs() {
        let (draft, asked) = interview(
            &["--proxies", "1", "--outage-s", "60"],
            "s3=5, ebss\ns3=5, ebs\n\n1\n8\nzone-loss\nhsm-hang\n",
        );
        let draft = draft.unwrap();
        assert_eq!((draft.proxies, draft.hsms, draft.hsm_ms, draft.outage_s), (1, 1, 8.0, 60));
        assert_eq!((draft.services.len(), draft.outage.name, draft.rtt_ms), (2, "hsm-hang", 10.0));
        assert!(
            asked.contains("did you mean `ebs`?") && asked.contains("zone-loss needs 2 proxies"),
            "{asked}"
        );
        assert!(!asked.contains("How many proxies") && !asked.contains("For how many seconds"), "{asked}");
    }

    #[test]
    fn an_end_of_the_input_and_endless_nonsense_write_nothing() {
        assert!(interview(&[], "s3\n").0.unwrap_err().contains("the input has ended"));
        assert!(interview(&[], &"what?\n".repeat(9)).0.unwrap_err().contains("asked 5 times"));
    }
}
