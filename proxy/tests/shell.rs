//! Completions in a real bash, the manual in roff, and what `--version` says.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail loudly")]

use std::fs;
use std::process::{Command, Output};

fn run(words: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_xks-proxy"))
        .args(words)
        .env_remove("XKS_PROXY_CONFIG")
        .output()
        .unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// What bash offers after these words, the last of which is being typed.
fn offers(script: &str, words: &[&str]) -> Vec<String> {
    let array: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let ask = format!(
        "source '{script}' || exit 1\nCOMP_WORDS=({}); COMP_CWORD={}; COMPREPLY=()\n\
         read -r -a spec <<< \"$(complete -p xks-proxy)\"\n\
         for ((i = 0; i < ${{#spec[@]}}; i++)); do [[ ${{spec[i]}} == -F ]] && function=${{spec[i+1]}}; done\n\
         \"$function\" xks-proxy '{}' '{}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        array.join(" "),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    let output = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_options() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("xks-proxy.bash").display().to_string();
    fs::write(&script, run(&["completions", "bash"])).unwrap();
    assert_eq!(offers(&script, &["xks-proxy", "doc"]), ["doctor"]);
    assert_eq!(offers(&script, &["xks-proxy", "cons"]), ["console-json"]);
    assert_eq!(offers(&script, &["xks-proxy", "keys", "li"]), ["list"]);
    assert_eq!(offers(&script, &["xks-proxy", "doctor", "--rt"]), ["--rtt-ms"]);
    assert_eq!(offers(&script, &["xks-proxy", "console-json", "--key"]), ["--key-store"]);
    for shell in ["zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("xks-proxy"), "{shell}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let directory = tempfile::tempdir().unwrap();
    run(&["man", "--out", directory.path().to_str().unwrap()]);
    for command in [
        "",
        "-serve",
        "-check",
        "-doctor",
        "-keys",
        "-keys-list",
        "-credentials",
        "-credentials-new",
        "-console-json",
    ] {
        let page = fs::read_to_string(directory.path().join(format!("xks-proxy{command}.1"))).unwrap();
        assert!(page.contains(&format!("\n.TH xks-proxy{command} 1")), "{command}: {page}");
        for section in [".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH OPTIONS"] {
            assert!(page.contains(section), "{command} {section}");
        }
    }
    assert!(run(&["man"]).contains(".SH SUBCOMMANDS"));
}

#[test]
fn the_version_says_what_was_built() {
    assert_eq!(run(&["-V"]), format!("xks-proxy {}\n", env!("CARGO_PKG_VERSION")));
    let long = run(&["--version"]);
    assert!(long.starts_with(&run(&["-V"])) && long.contains("spec 1.0.3"), "{long}");
}
