//! axe-core, which finds what keeps people with a disability from using a page. It is fetched from the npm registry once,
//! held to its published checksum, and kept in the target directory.

use super::chromium::Browser;
use base64::Engine as _;
use serde_json::Value;
use sha2::{Digest as _, Sha512};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const ADDRESS: &str = "https://registry.npmjs.org/axe-core/-/axe-core-4.14.1.tgz";
/// As the registry's `dist.integrity` says, without its prefix `sha512-`.
const SHA512: &str =
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==";

/// What stands in the way of somebody on this page, by axe's rules: the serious and the critical, each in a line.
pub(crate) fn findings(browser: &mut Browser) -> Vec<String> {
    static SOURCE: OnceLock<String> = OnceLock::new();
    // The page's policy admits no script but its own; it is lifted for axe alone, which comes by the debugger.
    browser.evaluate(&format!("{}; void 0", SOURCE.get_or_init(source)));
    let found = browser.evaluate(
        "axe.run(document, { resultTypes: ['violations'] }).then(found => JSON.stringify(found.violations
             .filter(it => it.impact === 'serious' || it.impact === 'critical')
             .map(it => it.id + ': ' + it.nodes.slice(0, 4).map(node => node.html.slice(0, 160) + ' ' +
                 (node.any[0] || node.all[0] || node.none[0] || {}).message).join(' | '))))",
    );
    let Value::String(found) = found else { panic!("axe gives no list: {found}") };
    serde_json::from_str(&found).unwrap()
}

fn source() -> String {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("axe-core-4.14.1.tgz");
    let package = match std::fs::read(&kept) {
        Ok(package) if is_whole(&package) => package,
        _ => {
            let package = fetch();
            assert!(is_whole(&package), "{ADDRESS} is not what it was: its SHA-512 differs");
            // Under another name first, for another test may read it at this moment.
            let half = kept.with_extension(format!("part-{}", std::process::id()));
            std::fs::write(&half, &package).and_then(|()| std::fs::rename(&half, &kept)).unwrap();
            package
        }
    };
    String::from_utf8(through(Command::new("tar").args(["-xzO", "package/axe.min.js"]), &package)).unwrap()
}

fn is_whole(package: &[u8]) -> bool {
    base64::engine::general_purpose::STANDARD.encode(Sha512::digest(package)) == SHA512
}

fn fetch() -> Vec<u8> {
    let mut curl = Command::new("curl");
    curl.args(["--fail", "--silent", "--show-error", "--location", "--proto", "=https", "--retry", "2"]);
    curl.args(["--max-time", "120", "--max-filesize", "4000000", ADDRESS]);
    let out =
        curl.output().unwrap_or_else(|error| panic!("curl, which fetches axe-core, does not start: {error}"));
    assert!(
        out.status.success(),
        "axe-core, which looks for what keeps people from using a page, cannot be fetched from {ADDRESS}: {}\n\
         connect to the npm registry, or put that file into {}",
        String::from_utf8_lossy(&out.stderr).trim(),
        env!("CARGO_TARGET_TMPDIR")
    );
    out.stdout
}

/// What a program makes of its input.
fn through(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The output is larger than a pipe: it is read while the input is written.
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success());
        out.stdout
    })
}
