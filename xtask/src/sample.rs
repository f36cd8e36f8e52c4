//! AWS's sample proxy (aws-samples/aws-kms-xks-proxy), if the user has built its program: told to serve the same key store over
//! the same token as ours, to compare the two.
//!
//! Place on the map: used by `serve`, with `--sample PROGRAM`.

use crate::serve::{ACCESS_KEY_ID, Options, REGION, SECRET, URI_PREFIX, private};
use crate::softhsm;
use std::path::Path;
use std::process::Command;

/// Sessions, when nothing is said: as many as our daemon has by default.
const SESSIONS: u32 = 16;

/// The command that serves over `module`, with its settings in `here`. It logs nothing, and nothing it can do without is on.
pub(crate) fn command(
    program: &Path,
    here: &Path,
    module: &Path,
    options: &Options,
) -> std::io::Result<Command> {
    let settings = here.join("sample.toml");
    let Options { port, tls, .. } = options;
    // It insists on a second port; the one above ours is the likeliest to be free.
    let ping_port = port.wrapping_add(1).max(1_024);
    let sessions = options.sessions.unwrap_or(SESSIONS);
    let (pin, here, module) = (softhsm::PIN, here.display(), module.display());
    private(
        &settings,
        &format!(
            r#"[server]
ip = "127.0.0.1"
port = {port}
port_http_ping = {ping_port}
region = "{REGION}"
service = "kms-xks-proxy"
[server.tcp_keepalive]
[tracing]
is_stdout_writer_enabled = false
is_file_writer_enabled = false
level = "ERROR"
[security]
is_sigv4_auth_enabled = true
is_tls_enabled = {tls}
is_mtls_enabled = false
[tls]
tls_cert_pem = "{here}/certificate.pem"
tls_key_pem = "{here}/key.pem"
[[external_key_stores]]
uri_path_prefix = "/{URI_PREFIX}"
sigv4_access_key_id = "{ACCESS_KEY_ID}"
sigv4_secret_access_key = "{SECRET}"
xks_key_id_set = ["foo"]
[pkcs11]
session_pool_max_size = {sessions}
session_pool_timeout_milli = 0
session_eager_close = false
user_pin = "{pin}"
PKCS11_HSM_MODULE = "{module}"
context_read_timeout_milli = 10
[limits]
max_plaintext_in_base64 = 8192
max_aad_in_base64 = 16384
[hsm_capabilities]
can_generate_iv = false
is_zero_iv_required = false
"#
        ),
    )?;
    let mut command = Command::new(program);
    command.env("XKS_PROXY_SETTINGS_TOML", settings).current_dir(here.to_string());
    Ok(command)
}
