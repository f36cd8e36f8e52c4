//! The fake and the real pass the same tests: one table of requests, asked of the emulated HSM, of SoftHSM2 behind the
//! production code, of the emulated HSM with SoftHSM2 for an engine, and of the emulated HSM at the other end of a
//! network. A difference is a bug in the fake until shown otherwise.

use crate::memory::Memory;
use crate::token::SoftHsmToken;
use cryptoki::error::Rv;
use sim_hsm::network::{ClientSettings, Endpoint, NetworkHsm, ServerSettings, serve};
use sim_hsm::{Capacity, Configuration, KeySpecification, ServiceTime, ServiceTimes, SimHsm, TokioTimer};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use xks_proxy::hsm::pkcs11::codes::judge;
use xks_proxy::hsm::pkcs11::{Module, Pkcs11Hsm, Pkcs11Inline};
use xks_proxy::hsm::{Aad, HealthStatus, Hsm, HsmError, HsmErrorKind, Iv, KeyFacts, KeySpec, Sealed};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

const SEED: u64 = 17;

/// Lengths of plaintexts that have something to tell: none, around a block, KMS's data keys, the spec's largest, more.
const LENGTHS: [usize; 12] = [0, 1, 15, 16, 17, 31, 32, 64, 1_024, 4_300, 8_192, 65_535];

fn keys() -> Vec<KeySpecification> {
    let key = |label: &str, bits, encrypt, decrypt| KeySpecification {
        label: label.into(),
        bits,
        encrypt,
        decrypt,
        enabled: true,
    };
    vec![
        key("both", 256, true, true),
        key("other", 256, true, true),
        key("encrypt-only", 256, true, false),
        key("decrypt-only", 256, false, true),
        key("neither", 256, false, false),
        key("aes-128", 128, true, true),
        key("aes-192", 192, true, true),
        key("Label with spaces, ümlauts and\ttabs", 256, true, true),
    ]
}

/// Everything under test.
struct Arms {
    token: SoftHsmToken,
    /// Loaded once: a process has one copy of a library.
    module: Arc<Module>,
}

fn arms() -> &'static Arms {
    static ARMS: OnceLock<Arms> = OnceLock::new();
    ARMS.get_or_init(|| {
        let plaintexts: Vec<Vec<u8>> = LENGTHS.iter().map(|len| pattern(*len)).collect();
        let plaintexts: Vec<&[u8]> = plaintexts.iter().map(Vec::as_slice).collect();
        let token = SoftHsmToken::make(SEED, &keys(), &aad(7, 2), &plaintexts);
        let module = Module::load(&token.settings().module).unwrap();
        Arms { token, module }
    })
}

/// The HSMs, by the names that failures use.
struct Hsms {
    simulated: SimHsm,
    real: Pkcs11Hsm,
    simulated_over_real: SimHsm,
    networked: NetworkHsm,
    _server: JoinSet<()>,
}

impl Hsms {
    fn open() -> Self {
        let arms = arms();
        let configuration = Configuration {
            seed: SEED,
            keys: keys(),
            capacity: Capacity { service_times: ServiceTimes::all(ServiceTime::ZERO), ..Capacity::default() },
            ..Configuration::default()
        };
        let timer = Arc::new(TokioTimer::new());
        let inline = Pkcs11Inline::open_on(Arc::clone(&arms.module), arms.token.settings()).unwrap();
        let mut settings = arms.token.settings();
        settings.sessions_max = 2;
        let (behind, control) =
            SimHsm::new(Configuration { stream: 1, ..configuration.clone() }, timer.clone());
        let (memory, mut server) = (Memory::default(), JoinSet::new());
        let address = memory.clone();
        server.spawn(serve(move || address.listen(), Arc::new(behind), control, ServerSettings::default()));
        let endpoint = Endpoint { name: "memory".into(), connect: Arc::new(memory) };
        Self {
            simulated: SimHsm::new(configuration.clone(), timer.clone()).0,
            real: Pkcs11Hsm::open_on(Arc::clone(&arms.module), settings).unwrap(),
            simulated_over_real: SimHsm::with_engine(configuration, Box::new(inline), timer).0,
            networked: NetworkHsm::new(vec![endpoint], ClientSettings::default()).unwrap(),
            _server: server,
        }
    }

    fn all(&self) -> [(&'static str, &dyn Hsm); 4] {
        [
            ("SimHsm", &self.simulated),
            ("Pkcs11Hsm over SoftHSM2", &self.real),
            ("SimHsm with SoftHSM2 for an engine", &self.simulated_over_real),
            ("NetworkHsm before SimHsm", &self.networked),
        ]
    }
}

impl Drop for Hsms {
    fn drop(&mut self) {
        assert!(self.real.close(Duration::from_secs(60)), "a session does not close");
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn aad(additional: usize, metadata: usize) -> Aad {
    Aad::frame(&pattern(additional), &pattern(metadata)).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// What is changed between encrypt and decrypt.
#[derive(Clone, Copy, Debug)]
enum Change {
    Nothing,
    Additional,
    Metadata,
    IvFirst,
    IvLast,
    IvLengthened,
    TagFirst,
    TagLast,
    CiphertextFirst,
    CiphertextLast,
    CiphertextCut,
    CiphertextLengthened,
    CiphertextEmptied,
    Key,
}

/// One request, or a few that belong together.
#[derive(Clone, Debug)]
enum Request {
    Describe(KeyName),
    Encrypt(KeyName),
    Decrypt(KeyName),
    RoundTrip { key: KeyName, len: usize, additional: usize, metadata: usize },
    Changed { change: Change, len: usize },
    SixteenByteIv { index: usize, change: Change },
    Late,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Facts(KeyFacts),
    Done,
    Fails(HsmErrorKind),
    /// Success with the wrong contents.
    Wrong(String),
}

impl From<HsmError> for Outcome {
    fn from(error: HsmError) -> Self {
        Self::Fails(error.kind)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Request {
    async fn ask(&self, hsm: &dyn Hsm) -> Outcome {
        match self.try_ask(hsm).await {
            Ok(outcome) => outcome,
            Err(error) => error.into(),
        }
    }

    async fn try_ask(&self, hsm: &dyn Hsm) -> Result<Outcome, HsmError> {
        let both = KeyName::label("both");
        match self {
            Self::Describe(key) => Ok(Outcome::Facts(hsm.describe(key, soon()).await?)),
            Self::Encrypt(key) => {
                hsm.encrypt(key, &aad(1, 1), &Plaintext::new(pattern(32)), soon()).await?;
                Ok(Outcome::Done)
            }
            Self::Decrypt(key) => {
                let sealed = Sealed { ciphertext: pattern(32), iv: Iv::Twelve([1; 12]), tag: [1; 16] };
                hsm.decrypt(key, &aad(1, 1), &sealed, soon()).await?;
                Ok(Outcome::Wrong("a ciphertext that nobody made was decrypted".into()))
            }
            Self::RoundTrip { key, len, additional, metadata } => {
                let (aad, plaintext) = (aad(*additional, *metadata), Plaintext::new(pattern(*len)));
                let sealed = hsm.encrypt(key, &aad, &plaintext, soon()).await?;
                if sealed.ciphertext.len() != *len || !matches!(sealed.iv, Iv::Twelve(_)) {
                    let made = (sealed.ciphertext.len(), sealed.iv);
                    return Ok(Outcome::Wrong(format!("ciphertext length and IV are {made:?}")));
                }
                let back = hsm.decrypt(key, &aad, &sealed, soon()).await?;
                Ok(if back == plaintext { Outcome::Done } else { Outcome::Wrong("another plaintext".into()) })
            }
            Self::Changed { change, len } => {
                let plaintext = Plaintext::new(pattern(*len));
                let sealed = hsm.encrypt(&both, &aad(7, 2), &plaintext, soon()).await?;
                decrypt_changed(hsm, *change, sealed, *len).await
            }
            Self::SixteenByteIv { index, change } => {
                let sealed = arms().token.sixteen_byte_iv[*index].clone();
                decrypt_changed(hsm, *change, sealed, LENGTHS[*index]).await
            }
            Self::Late => {
                hsm.describe(&both, Instant::now()).await?;
                Ok(Outcome::Done)
            }
        }
    }
}

async fn decrypt_changed(
    hsm: &dyn Hsm,
    change: Change,
    mut sealed: Sealed,
    len: usize,
) -> Result<Outcome, HsmError> {
    let (mut additional, mut metadata, mut key) = (pattern(7), pattern(2), "both");
    let mut iv = sealed.iv.as_bytes().to_vec();
    match change {
        Change::Nothing => {}
        Change::Additional => additional[6] ^= 1,
        Change::Metadata => metadata[1] ^= 1,
        Change::IvFirst => iv[0] ^= 0x80,
        Change::IvLast => *iv.last_mut().unwrap() ^= 1,
        Change::IvLengthened => iv.extend_from_slice(&[0, 0, 0, 1]),
        Change::TagFirst => sealed.tag[0] ^= 0x80,
        Change::TagLast => sealed.tag[15] ^= 1,
        Change::CiphertextFirst => sealed.ciphertext[0] ^= 0x80,
        Change::CiphertextLast => *sealed.ciphertext.last_mut().unwrap() ^= 1,
        Change::CiphertextCut => drop(sealed.ciphertext.pop()),
        Change::CiphertextLengthened => sealed.ciphertext.push(0),
        Change::CiphertextEmptied => sealed.ciphertext.clear(),
        Change::Key => key = "other",
    }
    sealed.iv = Iv::from_slice(&iv).unwrap();
    let aad = Aad::frame(&additional, &metadata).unwrap();
    let back = hsm.decrypt(&KeyName::label(key), &aad, &sealed, soon()).await?;
    let same = back.expose() == pattern(len);
    Ok(if same { Outcome::Done } else { Outcome::Wrong("another plaintext".into()) })
}

/// Asks every HSM every request, and lists all differences from what was expected at once.
async fn check(requests: Vec<(Request, Outcome)>) {
    let hsms = Hsms::open();
    let mut differences = Vec::new();
    for (request, expected) in &requests {
        for (name, hsm) in hsms.all() {
            let outcome = request.ask(hsm).await;
            if outcome != *expected {
                differences.push(format!("{name}: {request}: {outcome:?}, expected is {expected:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{} of {} differ:\n{}", differences.len(), requests.len() * 4, {
        differences.join("\n")
    });
}

fn label(text: &str) -> KeyName {
    KeyName::label(text)
}

#[tokio::test]
async fn keys_are_described_alike() {
    let mut requests = Vec::new();
    for key in keys() {
        let KeySpecification { label, bits, encrypt, decrypt, .. } = key;
        let facts = KeyFacts { spec: KeySpec::Aes(bits), encrypt, decrypt, enabled: true };
        let id = KeyName::Id(label.clone().into_bytes());
        requests.push((Request::Describe(KeyName::Label(label)), Outcome::Facts(facts)));
        requests.push((Request::Describe(id), Outcome::Facts(facts)));
    }
    check(requests).await;
}

#[tokio::test]
async fn round_trips_end_alike() {
    let trip =
        |len, additional, metadata| Request::RoundTrip { key: label("both"), len, additional, metadata };
    let mut requests: Vec<_> = LENGTHS.iter().map(|len| (trip(*len, 100, 2), Outcome::Done)).collect();
    for (additional, metadata) in [(0, 0), (1, 0), (0, 20), (8_192, 20), (16_384, 255), (65_535, 255)] {
        requests.push((trip(32, additional, metadata), Outcome::Done));
        requests.push((trip(0, additional, metadata), Outcome::Done));
    }
    let by_id = KeyName::Id(b"both".to_vec());
    requests.push((Request::RoundTrip { key: by_id, len: 32, additional: 1, metadata: 1 }, Outcome::Done));
    let named = label("Label with spaces, ümlauts and\ttabs");
    requests.push((Request::RoundTrip { key: named, len: 32, additional: 1, metadata: 1 }, Outcome::Done));
    check(requests).await;
}

#[tokio::test]
async fn every_change_is_rejected_alike() {
    let rejected = Outcome::Fails(HsmErrorKind::CiphertextRejected);
    let everywhere = [
        Change::Additional,
        Change::Metadata,
        Change::IvFirst,
        Change::IvLast,
        Change::TagFirst,
        Change::TagLast,
        Change::CiphertextLengthened,
        Change::Key,
    ];
    let of_contents =
        [Change::CiphertextFirst, Change::CiphertextLast, Change::CiphertextCut, Change::CiphertextEmptied];
    let mut requests = Vec::new();
    for len in [0, 32, 4_300] {
        requests.push((Request::Changed { change: Change::Nothing, len }, Outcome::Done));
        requests.push((Request::Changed { change: Change::IvLengthened, len }, rejected.clone()));
        let changes = everywhere.iter().chain(of_contents.iter().filter(|_| len > 0));
        requests.extend(changes.map(|change| (Request::Changed { change: *change, len }, rejected.clone())));
    }
    for (index, len) in LENGTHS.iter().enumerate() {
        requests.push((Request::SixteenByteIv { index, change: Change::Nothing }, Outcome::Done));
        let changes = everywhere.iter().chain(of_contents.iter().filter(|_| *len > 0));
        requests.extend(
            changes.map(|change| (Request::SixteenByteIv { index, change: *change }, rejected.clone())),
        );
    }
    check(requests).await;
}

#[tokio::test]
async fn refusals_are_alike() {
    let fails = Outcome::Fails;
    let mut requests = Vec::new();
    for absent in
        [label("absent"), label(""), label("BOTH"), KeyName::Id(b"absent".to_vec()), KeyName::Id(vec![0xff])]
    {
        requests.push((Request::Describe(absent.clone()), fails(HsmErrorKind::KeyNotFound)));
        requests.push((Request::Encrypt(absent.clone()), fails(HsmErrorKind::KeyNotFound)));
        requests.push((Request::Decrypt(absent), fails(HsmErrorKind::KeyNotFound)));
    }
    for (key, encrypt, decrypt) in [
        ("both", Outcome::Done, fails(HsmErrorKind::CiphertextRejected)),
        ("encrypt-only", Outcome::Done, fails(HsmErrorKind::UsageRefused)),
        ("decrypt-only", fails(HsmErrorKind::UsageRefused), fails(HsmErrorKind::CiphertextRejected)),
        ("neither", fails(HsmErrorKind::UsageRefused), fails(HsmErrorKind::UsageRefused)),
        ("aes-128", fails(HsmErrorKind::UsageRefused), fails(HsmErrorKind::UsageRefused)),
        ("aes-192", fails(HsmErrorKind::UsageRefused), fails(HsmErrorKind::UsageRefused)),
    ] {
        requests.push((Request::Encrypt(label(key)), encrypt));
        requests.push((Request::Decrypt(label(key)), decrypt));
    }
    requests.push((Request::Late, fails(HsmErrorKind::TimedOut)));
    check(requests).await;
}

#[tokio::test]
async fn what_one_encrypts_every_other_decrypts() {
    let hsms = Hsms::open();
    let key = label("both");
    for len in LENGTHS {
        for (maker, from) in hsms.all() {
            let plaintext = Plaintext::new(pattern(len));
            let sealed = from.encrypt(&key, &aad(300, 2), &plaintext, soon()).await.unwrap();
            for (reader, to) in hsms.all() {
                let back = to.decrypt(&key, &aad(300, 2), &sealed, soon()).await;
                assert_eq!(back, Ok(plaintext.clone()), "{len} bytes made by {maker}, read by {reader}");
            }
        }
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_harms_none() {
    let hsms = Hsms::open();
    for (name, hsm) in hsms.all() {
        let key = label("both");
        for polled in [false, true] {
            let (aad, plaintext) = (aad(1, 1), Plaintext::new(pattern(65_535)));
            let mut answer = hsm.encrypt(&key, &aad, &plaintext, soon());
            if polled {
                let once = std::future::poll_fn(|context| {
                    let _ = answer.as_mut().poll(context);
                    std::task::Poll::Ready(())
                });
                once.await;
            }
            drop(answer);
            let after = Request::RoundTrip { key: key.clone(), len: 32, additional: 1, metadata: 1 };
            assert_eq!(after.ask(hsm).await, Outcome::Done, "{name}, polled: {polled}");
        }
    }
}

#[tokio::test]
async fn health_is_one_active_device() {
    let hsms = Hsms::open();
    for (name, hsm) in hsms.all() {
        let health = hsm.health(soon()).await;
        let states: Vec<_> = health.iter().map(|device| device.status).collect();
        assert_eq!(states, [HealthStatus::Active], "{name}");
        assert!(!health[0].id.is_empty() && !health[0].model.is_empty(), "{name}: {health:?}");
    }
}

#[test]
fn every_return_code_means_the_same_to_both() {
    for ck_rv in (1..=0x400).chain([0x8000_0000, 0x8000_0001, u64::MAX]) {
        let Rv::Error(real) = Rv::from(ck_rv) else { panic!("{ck_rv:#x} is no error") };
        assert_eq!(sim_hsm::codes::kind_of(ck_rv), judge(real).kind, "{ck_rv:#x} in SimHsm and in Pkcs11Hsm");
    }
}
