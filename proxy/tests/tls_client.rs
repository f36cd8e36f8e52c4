//! Client certificates (XKS-AUTH-6) and the replacement of TLS under open connections, over in-memory streams: who gets
//! in, with which alert the others are turned away, and what the log says of them.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails loudly; clippy's leave for tests does not reach their helpers"
)]

#[path = "common/authority.rs"]
mod authority;

use authority::{Authority, Identity, client};
use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, HandshakeKind};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing_subscriber::fmt::MakeWriter;
use xks_proxy::env::{Env, UnixTime};
use xks_proxy::tls::{KnownClients, ServerTls, SubjectName, server_config, server_config_for};

const KMS: &str = "cks.kms.us-east-1.amazonaws.com";

/// 2026-01-02, between the dates of every certificate here but the ones of a test about dates.
struct Clock;

impl Env for Clock {
    fn now(&self) -> UnixTime {
        UnixTime(Duration::from_secs(1_767_323_045))
    }

    fn noise(&self) -> u64 {
        0
    }
}

/// A server that lets in clients of `authority` with one of these names.
fn server(own: &Identity, authority: &Authority, names: &[&str]) -> Arc<rustls::ServerConfig> {
    let clients = KnownClients {
        authorities: vec![authority.der()],
        subject_names: names.iter().map(|name| SubjectName::parse(name).unwrap()).collect(),
    };
    server_config_for(clients, own.chain(), own.private(), Arc::new(Clock)).unwrap()
}

/// One connection with a byte each way: the kind of handshake, or what the client is told.
async fn meet(
    server: Arc<rustls::ServerConfig>,
    client: Arc<ClientConfig>,
) -> Result<HandshakeKind, io::Error> {
    let (near, far) = duplex(65_536);
    let serve = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        let byte = stream.read_u8().await?;
        stream.write_u8(byte).await?;
        stream.flush().await
    };
    let ask = async {
        let mut stream = TlsConnector::from(client).connect("localhost".try_into().unwrap(), near).await?;
        stream.write_u8(7).await?;
        assert_eq!(stream.read_u8().await?, 7);
        Ok(stream.get_ref().1.handshake_kind().unwrap())
    };
    let (served, asked) = tokio::join!(serve, ask);
    assert_eq!(served.is_ok(), asked.is_ok(), "{served:?} {asked:?}");
    asked
}

/// The alert the client was sent.
fn alert(error: &io::Error) -> AlertDescription {
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("{error:?} {other:?}"),
    }
}

#[tokio::test]
async fn auth_6_a_client_with_the_right_name_gets_in_by_common_name_or_dns_name() {
    let (authority, own) = (Authority::new("clients"), Authority::new("servers"));
    let server = server(&own.server("server"), &authority, &["cks.kms.*.amazonaws.com", "Test Client"]);
    for (common_name, dns_names) in [
        (KMS, &[][..]),
        ("test client", &[]),
        ("somebody", &["other.example", "cks.kms.eu-west-3.amazonaws.com"]),
    ] {
        let shown = authority.client(common_name, dns_names);
        for version in [&TLS12, &TLS13] {
            let met = meet(Arc::clone(&server), client(version, &own, Some(&shown))).await;
            assert_eq!(met.unwrap(), HandshakeKind::Full, "{common_name} {version:?}");
        }
    }
}

#[tokio::test]
async fn auth_6_everybody_else_is_turned_away_and_not_told_why() {
    let (authority, own, stranger) =
        (Authority::new("clients"), Authority::new("servers"), Authority::new("clients"));
    let server = server(&own.server("server"), &authority, &[KMS]);
    let dated = |from, until| {
        authority.issue(KMS, &[], ExtendedKeyUsagePurpose::ClientAuth, |params| {
            (params.not_before, params.not_after) = (from, until);
        })
    };
    let cases = [
        ("another authority of the same name", stranger.client(KMS, &[KMS])),
        ("another authority", own.client(KMS, &[])),
        ("another region", authority.client("cks.kms.us-east-2.amazonaws.com", &[])),
        ("no name at all", authority.client("", &[])),
        ("expired", dated(date_time_ymd(2025, 1, 1), date_time_ymd(2026, 1, 1))),
        ("not valid yet", dated(date_time_ymd(2026, 2, 1), date_time_ymd(2027, 1, 1))),
        ("a server's certificate", authority.issue(KMS, &[], ExtendedKeyUsagePurpose::ServerAuth, |_| {})),
    ];
    for version in [&TLS12, &TLS13] {
        for (what, shown) in &cases {
            let error = meet(Arc::clone(&server), client(version, &own, Some(shown))).await.expect_err(what);
            assert_eq!(alert(&error), AlertDescription::HandshakeFailure, "{what} {version:?}");
        }
        let error = meet(Arc::clone(&server), client(version, &own, None)).await.unwrap_err();
        assert_eq!(alert(&error), AlertDescription::CertificateRequired, "no certificate, {version:?}");
    }
}

/// A log of this thread's.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn auth_6_a_wrong_name_by_a_trusted_authority_is_a_warning_and_a_stranger_is_not() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().json().with_writer(log.clone()).finish();
    // While a process has one dispatcher only, tracing asks the thread that first comes upon an event whether anybody wants
    // it (tokio-rs/tracing#3611): another test's thread, without a subscriber, silenced this one's line for good.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _here = tracing::subscriber::set_default(subscriber);
    let (authority, own) = (Authority::new("clients"), Authority::new("servers"));
    let server = server(&own.server("server"), &authority, &[KMS]);

    let stranger = Authority::new("strangers").client("stranger", &[]);
    meet(Arc::clone(&server), client(&TLS13, &own, Some(&stranger))).await.unwrap_err();
    let wrong = authority.client("payroll\n{\"level\":\"ERROR\"}", &["payroll.example"]);
    for _ in 0..3 {
        meet(Arc::clone(&server), client(&TLS13, &own, Some(&wrong))).await.unwrap_err();
    }

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "one line a minute: {text}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["fields"]["subject"], "CN=payroll\\n{\"level\":\"ERROR\"}");
    assert_eq!(line["fields"]["issuer"], "CN=clients");
    assert_eq!(line["fields"]["dns_names"], "[\"payroll.example\"]");
}

#[tokio::test]
async fn new_connections_get_the_new_certificate_and_no_session_outlives_a_reload() {
    let own = Authority::new("servers");
    let set_up = |common_name: &str| {
        let identity = own.server(common_name);
        server_config(identity.chain(), identity.private(), Arc::new(Clock)).unwrap()
    };
    for version in [&TLS12, &TLS13] {
        let tls = ServerTls::new(set_up("first"));
        let asking = client(version, &own, None);
        let now = || Arc::clone(&tls.current().config);
        assert_eq!(meet(now(), Arc::clone(&asking)).await.unwrap(), HandshakeKind::Full);
        assert_eq!(meet(now(), Arc::clone(&asking)).await.unwrap(), HandshakeKind::Resumed, "{version:?}");
        tls.replace(set_up("second").into());
        assert_eq!(meet(now(), Arc::clone(&asking)).await.unwrap(), HandshakeKind::Full, "{version:?}");
        assert_eq!(meet(now(), asking).await.unwrap(), HandshakeKind::Resumed, "{version:?}");
    }
}

#[tokio::test]
async fn a_session_does_not_carry_a_client_past_a_change_of_its_authority() {
    let (old, new, own) = (Authority::new("old"), Authority::new("new"), Authority::new("servers"));
    let identity = own.server("server");
    for version in [&TLS12, &TLS13] {
        let tls = ServerTls::new(server(&identity, &old, &[KMS]));
        let now = || Arc::clone(&tls.current().config);
        let asking = client(version, &own, Some(&old.client(KMS, &[])));
        for _ in 0..2 {
            // Its certificate is looked at every time, also within one set-up.
            assert_eq!(meet(now(), Arc::clone(&asking)).await.unwrap(), HandshakeKind::Full);
        }
        tls.replace(server(&identity, &new, &[KMS]).into());
        let error = meet(now(), Arc::clone(&asking)).await.unwrap_err();
        assert_eq!(alert(&error), AlertDescription::HandshakeFailure);
        // And a client that got in when nothing was asked of it does not get in by that session.
        let anybody = client(version, &own, None);
        tls.replace(server_config(identity.chain(), identity.private(), Arc::new(Clock)).unwrap().into());
        meet(now(), Arc::clone(&anybody)).await.unwrap();
        assert_eq!(meet(now(), Arc::clone(&anybody)).await.unwrap(), HandshakeKind::Resumed);
        tls.replace(server(&identity, &new, &[KMS]).into());
        let error = meet(now(), anybody).await.unwrap_err();
        assert_eq!(alert(&error), AlertDescription::CertificateRequired);
    }
}
