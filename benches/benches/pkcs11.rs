//! One encryption over real SoftHSM2: the library alone on this thread, and through the proxy's pool of sessions, which
//! adds the hand-over to another thread and back, and the check that the key's handle still names that key.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run is to stop")]
#![expect(clippy::print_stderr, reason = "whoever asked is to hear why nothing is measured")]

use criterion::{Criterion, Throughput};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;
use xks_proxy::hsm::pkcs11::{Pkcs11Hsm, Pkcs11Settings, TokenChoice};
use xks_proxy::hsm::{Aad, Hsm};
use xks_proxy::key::KeyName;
use xks_proxy::secret::{Plaintext, Secret};

const PLACES: [&str; 5] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];
const TOKEN: &str = "bench";
const PIN: &str = "user-pin";
const KEY: &str = "key";

/// SoftHSM2 reads where its tokens are from the environment of its process, so this program starts itself once more with
/// that set.
const MODULE_FOUND: &str = "XKS_BENCH_PKCS11_MODULE";

fn main() -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "see MODULE_FOUND")]
    let module = std::env::var_os(MODULE_FOUND);
    match module {
        Some(module) => measure(Path::new(&module)),
        None => return prepare(),
    }
    ExitCode::SUCCESS
}

/// Makes a token, and starts this program over it.
fn prepare() -> ExitCode {
    let missing = "pkcs11: skipped, SoftHSM2 is missing; install it with: apt-get install softhsm2";
    let Some(module) = PLACES.iter().map(PathBuf::from).find(|place| place.exists()) else {
        eprintln!("{missing}");
        return ExitCode::SUCCESS;
    };
    let here = tempfile::tempdir().unwrap();
    let (tokens, conf) = (here.path().join("tokens"), here.path().join("softhsm2.conf"));
    std::fs::create_dir(&tokens).unwrap();
    std::fs::write(&conf, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()))
        .unwrap();
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", TOKEN, "--so-pin", "4321", "--pin", PIN])
        .env("SOFTHSM2_CONF", &conf)
        .output();
    let Ok(made) = made else {
        eprintln!("{missing}");
        return ExitCode::SUCCESS;
    };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env("SOFTHSM2_CONF", &conf)
        .env(MODULE_FOUND, module)
        .status()
        .unwrap();
    if ended.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn measure(module: &Path) {
    let mut criterion = Criterion::default().configure_from_args();
    let plaintext = [7; 96];
    let aad = Aad::frame(&[1; 33], &[1, 1]).unwrap();

    let (session, key) = make_key(module);
    criterion.bench_function("pkcs11/encrypt, the library alone", |bencher| {
        bencher.iter(|| library_alone(&session, key, &aad, &plaintext));
    });

    let token = TokenChoice::Label(TOKEN.into());
    let settings = Pkcs11Settings::new(module, token, Secret::new(PIN.into()));
    // As the daemon's.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let hsm = runtime.block_on(async { Arc::new(Pkcs11Hsm::open(settings).unwrap()) });
    let request = Arc::new((KeyName::label(KEY), aad, Plaintext::new(plaintext.to_vec())));
    for concurrent in [1, 8] {
        let mut group = criterion.benchmark_group("pkcs11");
        group.throughput(Throughput::Elements(concurrent));
        group.bench_function(format!("encrypt through the pool, {concurrent} at once"), |bencher| {
            bencher.iter(|| through_the_pool(&runtime, &hsm, &request, concurrent));
        });
        group.finish();
    }
    criterion.final_summary();
    assert!(hsm.close(Duration::from_secs(1)));
}

/// What SoftHSM2 itself needs: the IV and the encryption.
fn library_alone(session: &Session, key: ObjectHandle, aad: &Aad, plaintext: &[u8]) -> Vec<u8> {
    let mut iv = [0; 12];
    session.generate_random_slice(&mut iv).unwrap();
    let parameters = GcmParams::new(&mut iv, aad.as_bytes(), 128.into()).unwrap();
    session.encrypt(&Mechanism::AesGcm(parameters), key, plaintext).unwrap()
}

fn through_the_pool(
    runtime: &Runtime,
    hsm: &Arc<Pkcs11Hsm>,
    request: &Arc<(KeyName, Aad, Plaintext)>,
    concurrent: u64,
) {
    runtime.block_on(async {
        let mut calls = JoinSet::new();
        for _ in 0..concurrent {
            let (hsm, request) = (Arc::clone(hsm), Arc::clone(request));
            calls.spawn(async move {
                let (key, aad, plaintext) = &*request;
                hsm.encrypt(key, aad, plaintext, Instant::now() + Duration::from_secs(10)).await.unwrap()
            });
        }
        calls.join_all().await
    });
}

fn make_key(module: &Path) -> (Session, ObjectHandle) {
    let pkcs11 = Pkcs11::new(module).unwrap();
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = pkcs11
        .get_slots_with_token()
        .unwrap()
        .into_iter()
        .find(|slot| pkcs11.get_token_info(*slot).unwrap().label() == TOKEN)
        .unwrap();
    let session = pkcs11.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::new(PIN.into()))).unwrap();
    let template = [
        Attribute::Token(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Label(KEY.into()),
        Attribute::Id(vec![1]),
        Attribute::ValueLen(32.into()),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
    ];
    let key = session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
    (session, key)
}
