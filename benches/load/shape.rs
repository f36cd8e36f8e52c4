//! What is asked of a proxy, how often, and over how many connections.
//!
//! Place on the map: part of the command line; `worker` obeys it.

use crate::request::Operation;
use std::time::Duration;

/// A signature made beforehand is good for five minutes (XKS-AUTH-5); this leaves a minute for set-up and clocks.
const PRE_SIGNED_SECONDS_MAX: u64 = 240;

/// The load, the same for every proxy of a comparison.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Shape {
    /// What to ask: encrypt, decrypt, metadata or health, or a mix by weight such as encrypt=1,decrypt=3.
    #[arg(long, value_name = "MIX", default_value = "encrypt")]
    pub(crate) operation: Mix,
    /// Requests that fall due per second (open loop). Without it each connection asks as fast as it is answered.
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,
    /// Connections, each with one request at a time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) connections: u32,
    /// Threads that share the connections.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) threads: u32,
    /// How long to measure, in seconds.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// How long to load before measuring, in seconds.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub(crate) warm_up_seconds: u64,
    /// Ask encrypt for the integrity value (ciphertextDataIntegrityValue), and check it.
    #[arg(long)]
    pub(crate) cdiv: bool,
    /// Sign a few requests beforehand and repeat them, instead of signing each.
    #[arg(long)]
    pub(crate) pre_signed: bool,
    /// Speak HTTP/2, one stream at a time per connection.
    #[arg(long)]
    pub(crate) http2: bool,
    /// Bytes of each plaintext.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=8_192))]
    pub(crate) plaintext_bytes: u32,
    /// Bytes of additional authenticated data in each request.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(0..=16_384))]
    pub(crate) aad_bytes: u32,
}

/// A command line of nothing but a load.
#[derive(clap::Parser)]
#[command(no_binary_name = true)]
struct Words {
    #[command(flatten)]
    shape: Shape,
}

impl Shape {
    /// From options with blanks between them.
    ///
    /// # Errors
    /// One line that says which of them is wrong.
    pub(crate) fn of(words: &str) -> Result<Self, String> {
        let parsed = <Words as clap::Parser>::try_parse_from(words.split_whitespace());
        let shape =
            parsed.map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())?.shape;
        shape.check().map(|()| shape)
    }

    /// What clap cannot see: options that do not go together.
    ///
    /// # Errors
    /// One line that says which.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.threads > self.connections {
            return Err(format!(
                "{} threads cannot share {} connections: lower --threads or raise --connections",
                self.threads, self.connections
            ));
        }
        if self.pre_signed && self.seconds + self.warm_up_seconds > PRE_SIGNED_SECONDS_MAX {
            return Err(format!(
                "--pre-signed requests are good for five minutes: let --seconds and --warm-up-seconds be at most \
                 {PRE_SIGNED_SECONDS_MAX} together"
            ));
        }
        Ok(())
    }

    /// How many connections thread `number` has.
    pub(crate) fn connections_of(&self, number: u32) -> u32 {
        self.connections / self.threads + u32::from(number < self.connections % self.threads)
    }

    /// Time between two requests that thread `number` has to send, if there is a rate.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.rate.map(|rate| Duration::from_secs(1) * self.threads / rate)
    }
}

/// Operations by weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    text: String,
    /// Each operation as often as its weight says, spread evenly; repeated for ever.
    turns: Vec<Operation>,
}

impl Mix {
    /// The largest weight.
    const WEIGHT_MAX: u32 = 100;

    /// Which operation the request with this number is.
    pub(crate) fn at(&self, number: u64) -> Operation {
        // The remainder is below the length, which is at least one.
        self.turns[usize::try_from(number % self.turns.len() as u64).unwrap_or(0)]
    }

    /// Whether the operation occurs.
    pub(crate) fn holds(&self, operation: Operation) -> bool {
        self.turns.contains(&operation)
    }
}

impl std::fmt::Display for Mix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut shares: Vec<(Operation, u32)> = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let operation =
                Operation::ALL.into_iter().find(|operation| operation.as_str() == name).ok_or_else(|| {
                    format!("no operation {name:?}: write encrypt, decrypt, metadata or health")
                })?;
            let weight =
                weight.parse().ok().filter(|weight| (1..=Self::WEIGHT_MAX).contains(weight)).ok_or_else(
                    || format!("weight {weight:?} is not a number from 1 to {}", Self::WEIGHT_MAX),
                )?;
            if shares.iter().any(|(named, _)| *named == operation) {
                return Err(format!("{name} stands there twice"));
            }
            shares.push((operation, weight));
        }
        // Turn k of an operation with weight w lies at (k + 1/2) / w of the round.
        let mut turns: Vec<(u64, Operation)> = shares
            .iter()
            .flat_map(|(operation, weight)| {
                (0..*weight).map(move |k| (u64::from(2 * k + 1) * 1_000_000 / u64::from(*weight), *operation))
            })
            .collect();
        turns.sort_by_key(|(place, _)| *place);
        Ok(Self { text: text.to_owned(), turns: turns.into_iter().map(|(_, operation)| operation).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_spread_evenly() {
        let mix: Mix = "encrypt,decrypt=3".parse().unwrap();
        let names: Vec<&str> = (0..8).map(|number| mix.at(number).as_str()).collect();
        assert_eq!(names[..4], ["decrypt", "encrypt", "decrypt", "decrypt"]);
        assert_eq!(names[4..], names[..4]);
        assert!(mix.holds(Operation::Encrypt) && !mix.holds(Operation::Health));
    }

    #[test]
    fn mistakes_in_a_mix_are_told() {
        for (text, part) in [
            ("encrpyt", "no operation \"encrpyt\""),
            ("", "no operation \"\""),
            ("encrypt=0", "weight \"0\""),
            ("encrypt=101", "weight \"101\""),
            ("health,health", "health stands there twice"),
        ] {
            let message = text.parse::<Mix>().unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn threads_share_connections_and_rate() {
        let shape = Shape::of("--connections 10 --threads 4 --rate 1000").unwrap();
        assert_eq!((0..4).map(|n| shape.connections_of(n)).collect::<Vec<_>>(), [3, 3, 2, 2]);
        assert_eq!(shape.interval(), Some(Duration::from_millis(4)));
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        assert!(Shape::of("").is_ok());
        for (words, part) in [
            ("--threads 17", "17 threads"),
            ("--pre-signed --seconds 240", "five minutes"),
            ("--rate 0", "0"),
        ] {
            let message = Shape::of(words).unwrap_err();
            assert!(message.contains(part) && !message.contains('\n'), "{message}");
        }
    }
}
