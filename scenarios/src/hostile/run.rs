//! One run: is the proxy well, then mutation after mutation, and is it still well?
//!
//! Place on the map: called by the command and by tests, on a real tokio runtime with a `LocalSet`.

use super::case::{Case, Expected, Operation, Target};
use super::endpoint::Endpoint;
use super::finding::{Fault, Finding, FindingKind};
use super::framing::Framing;
use super::mutation::{Mutation, plan};
use super::request::Request;
use super::seeds::Seeds;
use super::signing::{Credential, Signing};
use super::summary::{LatencyUs, Summary};
use super::verdict::judge;
use super::wire::{Line, Seen};
use crate::kms::answers::{Wrong, read_encrypt};
use crate::kms::inner::Sealed;
use crate::streams::Streams;
use hdrhistogram::Histogram;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use xks_proxy::env::{Env, SystemEnv, UnixTime};

/// Bytes of the plaintext that is encrypted: a data key's.
const PLAINTEXT_BYTES: usize = 32;
/// After so many requests the proxy's health is looked at again.
const HEALTH_EVERY: u64 = 500;
/// How much longer than the budget an answer is waited for, to tell a slow proxy from one that hangs.
const GRACE: Duration = Duration::from_secs(2);
/// A late answer is a finding only if it is late each time; a test bench has other work too.
const LATE_TIMES: u32 = 3;

/// How much to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many hostile requests.
    Requests(u64),
    /// For so long.
    Time(Duration),
}

/// How a run is to be made.
pub struct Options {
    /// What stands before `/kms/xks/v1`; empty or beginning with a slash.
    pub prefix: String,
    /// The external key.
    pub key_id: String,
    /// The credential that requests are signed with.
    pub credential: Credential,
    /// What to mutate.
    pub targets: Vec<Target>,
    /// Requests to begin with, besides the valid ones of the spec.
    pub corpus: Vec<Vec<u8>>,
    /// The seed of every random choice.
    pub seed: u64,
    /// How much to send.
    pub amount: Amount,
    /// Hostile requests per second, at the most.
    pub rate_per_s: u32,
    /// Connections at once.
    pub connections: u32,
    /// How long KMS waits for an answer.
    pub budget: Duration,
}

/// A run and its surroundings, shared by the connections.
struct Run {
    endpoint: Rc<Endpoint>,
    options: Options,
    seeds: Seeds,
    plan: Vec<Mutation>,
    streams: Streams,
    began: Instant,
    next: Cell<u64>,
    stopped: Notify,
    ended_early: RefCell<Option<String>>,
    gathered: RefCell<Gathered>,
}

#[derive(Default)]
struct Gathered {
    requests: u64,
    answers: BTreeMap<String, u64>,
    took_us: Vec<u64>,
    late_once: u64,
    findings: BTreeMap<(FindingKind, Target), Finding>,
    ivs: BTreeSet<Vec<u8>>,
}

/// Runs. `progress` is told after each request how many were sent; `interrupted` ends the run early, cleanly.
///
/// # Errors
/// One line, when the proxy does not serve valid requests to begin with.
pub async fn run(
    endpoint: Endpoint,
    options: Options,
    progress: Rc<dyn Fn(u64)>,
    interrupted: impl Future<Output = ()>,
) -> Result<Summary, String> {
    let streams = Streams::new(options.seed);
    let mut random = streams.stream("fuzz-seeds", 0);
    let mut plaintext = vec![0; PLAINTEXT_BYTES];
    random.fill_bytes(&mut plaintext);
    let mut seeds = Seeds {
        host: endpoint.authority.clone(),
        prefix: options.prefix.clone(),
        key_id: options.key_id.clone(),
        plaintext,
        aad: b"{\"purpose\":\"fuzzing\"}".to_vec(),
        sealed: Sealed { ciphertext: Vec::new(), iv: Vec::new(), tag: [0; 16], metadata: Vec::new() },
        corpus: options.corpus.clone(),
    };
    let mut gathered = Gathered::default();
    {
        let mut line = Line::new(&endpoint, options.budget + GRACE);
        let healthy = check_health(&mut line, &seeds, &options.credential, &mut random).await;
        let (sealed, faults) = healthy.map_err(|why| {
            format!("{} does not serve valid requests, so nothing hostile was sent: {why}", endpoint.url)
        })?;
        gathered.ivs.insert(sealed.iv.clone());
        seeds.sealed = sealed;
        for (fault, case) in faults {
            gathered.note(fault, &case, &case.bytes(&options.credential, now()));
        }
    }
    let run = Rc::new(Run {
        plan: plan(&options.targets),
        endpoint: Rc::new(endpoint),
        seeds,
        streams,
        began: Instant::now(),
        next: Cell::new(0),
        stopped: Notify::new(),
        ended_early: RefCell::default(),
        gathered: RefCell::new(gathered),
        options,
    });
    let mut connections = JoinSet::new();
    for _ in 0..run.options.connections {
        let (run, progress) = (Rc::clone(&run), Rc::clone(&progress));
        connections.spawn_local(async move { run.connection(&*progress).await });
    }
    let finish = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        () = finish => {}
        () = interrupted => run.end("interrupted"),
        () = run.stopped.notified() => {}
    }
    connections.shutdown().await;
    run.finish(&mut random).await
}

fn now() -> UnixTime {
    SystemEnv.now()
}

impl Run {
    fn end(&self, why: &str) {
        self.ended_early.borrow_mut().get_or_insert_with(|| why.to_owned());
        self.stopped.notify_one();
    }

    /// One connection's share: the next case, when its time has come, until there is none.
    async fn connection(&self, progress: &dyn Fn(u64)) {
        let mut line = Line::new(&self.endpoint, self.options.budget + GRACE);
        loop {
            let number = self.next.get();
            self.next.set(number + 1);
            let due =
                self.began + Duration::from_secs_f64(number as f64 / f64::from(self.options.rate_per_s));
            let over = match self.options.amount {
                Amount::Requests(requests) => number >= requests,
                Amount::Time(time) => due.max(Instant::now()) >= self.began + time,
            };
            if over {
                return;
            }
            sleep_until(due).await;
            let mut random = self.streams.stream("fuzz", number);
            let mutation = &self.plan[(number % self.plan.len() as u64) as usize];
            let case = mutation.case(&self.seeds, &mut random);
            self.try_case(&mut line, &case).await;
            let sent = {
                let mut gathered = self.gathered.borrow_mut();
                gathered.requests += 1;
                gathered.requests
            };
            progress(sent);
            if sent.is_multiple_of(HEALTH_EVERY) && !self.look_after(&mut line, &case, &mut random).await {
                return;
            }
        }
    }

    async fn try_case(&self, line: &mut Line<'_>, case: &Case) {
        let mut times = 0;
        let (sent, observation) = loop {
            let sent = case.bytes(&self.options.credential, now());
            let observation = line.ask(&sent, case.wants_own_connection()).await;
            times += 1;
            let late = observation.took > self.options.budget && observation.seen != Seen::Silence;
            if !late || case.expected.may_wait || times == LATE_TIMES {
                break (sent, observation);
            }
        };
        let mut verdict = judge(case, &observation.seen, &self.seeds.plaintext);
        let mut gathered = self.gathered.borrow_mut();
        *gathered.answers.entry(verdict.answer).or_default() += 1;
        if matches!(observation.seen, Seen::Answer(_)) {
            gathered.took_us.push(u64::try_from(observation.took.as_micros()).unwrap_or(u64::MAX));
        }
        if times > 1 && observation.took <= self.options.budget {
            gathered.late_once += 1;
        }
        if times == LATE_TIMES && observation.took > self.options.budget {
            let detail = format!(
                "{} ms, {LATE_TIMES} times in a row; the budget is {} ms",
                observation.took.as_millis(),
                self.options.budget.as_millis()
            );
            let requirement = "XKS-TIME-1".to_owned();
            verdict.faults.push(Fault { kind: FindingKind::SlowAnswer, requirement, detail });
        }
        if let Some(iv) = verdict.iv
            && !gathered.ivs.insert(iv)
        {
            verdict.faults.push(iv_reused());
        }
        let died = matches!(observation.seen, Seen::Unreachable(_));
        for fault in verdict.faults {
            gathered.note(fault, case, &sent);
        }
        drop(gathered);
        if died {
            self.end("the proxy takes no connections any more");
        }
    }

    /// Sends valid requests between the others; false when they are not served, which ends the run.
    async fn look_after(&self, line: &mut Line<'_>, last: &Case, random: &mut ChaCha20Rng) -> bool {
        match check_health(line, &self.seeds, &self.options.credential, random).await {
            Ok((sealed, mut faults)) => {
                let mut gathered = self.gathered.borrow_mut();
                if !gathered.ivs.insert(sealed.iv) {
                    faults.push((iv_reused(), health_case(&self.seeds, Operation::Encrypt, random)));
                }
                for (fault, case) in faults {
                    gathered.note(fault, &case, &case.bytes(&self.options.credential, now()));
                }
                true
            }
            Err(detail) => {
                let (kind, requirement) = (FindingKind::UnhealthyAfterwards, "XKS-NET-9".to_owned());
                let sent = last.bytes(&self.options.credential, now());
                self.gathered.borrow_mut().note(Fault { kind, requirement, detail }, last, &sent);
                self.end("valid requests are not served any more");
                false
            }
        }
    }

    async fn finish(&self, random: &mut ChaCha20Rng) -> Result<Summary, String> {
        let took = self.began.elapsed();
        if self.ended_early.borrow().is_none() {
            let mut line = Line::new(&self.endpoint, self.options.budget + GRACE);
            let last = health_case(&self.seeds, Operation::Encrypt, random);
            self.look_after(&mut line, &last, random).await;
        }
        let gathered = self.gathered.borrow();
        let mut histogram = Histogram::<u64>::new(3).map_err(|error| error.to_string())?;
        for took_us in &gathered.took_us {
            histogram.saturating_record(*took_us);
        }
        let mut findings: Vec<Finding> = gathered.findings.values().cloned().collect();
        findings.sort_by_key(|finding| (finding.fault.kind.severity(), finding.fault.kind));
        Ok(Summary {
            endpoint: self.endpoint.url.clone(),
            seed: self.options.seed,
            requests: gathered.requests,
            took,
            answers: gathered.answers.clone(),
            latency_us: LatencyUs {
                p50: histogram.value_at_quantile(0.5),
                p90: histogram.value_at_quantile(0.9),
                p99: histogram.value_at_quantile(0.99),
                max: histogram.max(),
            },
            late_once: gathered.late_once,
            findings,
            ended_early: self.ended_early.borrow().clone(),
        })
    }
}

fn iv_reused() -> Fault {
    Fault {
        kind: FindingKind::IvReused,
        requirement: "NIST SP 800-38D, section 8".into(),
        detail: "two encryptions under one key have the same initialization vector".into(),
    }
}

impl Gathered {
    fn note(&mut self, fault: Fault, case: &Case, sent: &[u8]) {
        let finding = self.findings.entry((fault.kind, case.target)).or_insert_with(|| Finding {
            fault,
            case: case.clone(),
            sent: sent.to_vec(),
            count: 0,
        });
        finding.count += 1;
    }
}

/// A valid request as a case.
fn health_case(seeds: &Seeds, operation: Operation, random: &mut ChaCha20Rng) -> Case {
    let target = match operation {
        Operation::GetHealthStatus => Target::Health,
        Operation::GetKeyMetadata => Target::Metadata,
        Operation::Encrypt => Target::Encrypt,
        Operation::Decrypt => Target::Decrypt,
    };
    Case {
        target,
        mutation: "none: a valid request".into(),
        operation,
        request: seeds.request(operation, random),
        signing: Signing::Valid,
        framing: Framing::Sized,
        expected: Expected::success("XKS-NET-4", seeds.shape(operation)),
    }
}

/// Asks all four operations as KMS would, and encrypts twice. Gives what encrypt answered, and what was served, but not as
/// the spec has it.
async fn check_health(
    line: &mut Line<'_>,
    seeds: &Seeds,
    credential: &Credential,
    random: &mut ChaCha20Rng,
) -> Result<(Sealed, Vec<(Fault, Case)>), String> {
    let mut faults = Vec::new();
    let mut ask = async |case: &Case| -> Result<Vec<u8>, String> {
        let name = format!("{:?}", case.operation);
        let request: &Request = &case.request;
        let seen = line.ask(&case.bytes(credential, now()), false).await.seen;
        let verdict = judge(case, &seen, b"");
        // One that is served, but not as the spec has it, is a finding, and no reason to look no further.
        if let (Seen::Answer(response), "200") = (&seen, verdict.answer.as_str()) {
            faults.extend(verdict.faults.into_iter().map(|fault| (fault, case.clone())));
            return Ok(response.body.clone());
        }
        let hint = match verdict.answer.as_str() {
            "AuthenticationFailedException" => "; check access key id, secret, region and the clock",
            "InvalidUriPathException" | "HTTP 404" => "; check --uri-path-prefix",
            "KeyNotFoundException" => "; check --key-id",
            "AccessDeniedException" => {
                "; the rules of the key store must allow arn:aws:iam::123456789012:user/Alice"
            }
            "(no connection)" => "; is it running, and does the scheme fit?",
            _ => "",
        };
        let detail = verdict.faults.first().map_or(String::new(), |fault| format!(" ({})", fault.detail));
        Err(format!("POST {} was answered {}{detail} [{name}]{hint}", request.target, verdict.answer))
    };
    for operation in [Operation::GetHealthStatus, Operation::GetKeyMetadata] {
        ask(&health_case(seeds, operation, random)).await?;
    }
    let encrypt = health_case(seeds, Operation::Encrypt, random);
    let mut sealed = Vec::new();
    for _ in 0..2 {
        let body = ask(&encrypt).await?;
        let read = read_encrypt(&body, seeds.plaintext.len(), Some(&seeds.aad));
        sealed.push(read.map_err(|(Wrong::Form(what) | Wrong::IntegrityValue(what))| {
            format!("Encrypt was answered 200, but {what}")
        })?);
    }
    for sealed in &sealed {
        let mut decrypt = health_case(seeds, Operation::Decrypt, random);
        decrypt.request = seeds.decrypt(sealed, random);
        ask(&decrypt).await?;
    }
    if sealed[0].iv == sealed[1].iv {
        faults.push((iv_reused(), encrypt));
    }
    Ok((sealed.swap_remove(1), faults))
}

/// Sends one case again, signed anew, and says what came and what is wrong with it now.
pub async fn replay(
    endpoint: &Endpoint,
    credential: &Credential,
    case: &Case,
    budget: Duration,
) -> (String, Vec<Fault>) {
    let mut line = Line::new(endpoint, budget + GRACE);
    let observation = line.ask(&case.bytes(credential, now()), true).await;
    let mut verdict = judge(case, &observation.seen, b"");
    if observation.took > budget && !case.expected.may_wait {
        let detail = format!("{} ms; the budget is {} ms", observation.took.as_millis(), budget.as_millis());
        let requirement = "XKS-TIME-1".to_owned();
        verdict.faults.push(Fault { kind: FindingKind::SlowAnswer, requirement, detail });
    }
    (verdict.answer, verdict.faults)
}
