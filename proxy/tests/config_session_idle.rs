//! The key `session_idle_max_ms` of a configuration.

use std::time::Duration;
use xks_proxy::config::Config;

fn config(line: &str) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[[hsm]]\nname = \"h\"\nmodule = \"m.so\"\nslot = 0\npin_file = \"pin\"\n{line}\n\
         [[key_store]]\nname = \"main\"\nuri_prefix = \"\"\nhsm = \"h\"\n[[key_store.credential]]\n\
         access_key_id = \"BETWEEN2TENAND3TENCHARACTERS\"\nsecret_file = \"secret\"\n"
    )
}

#[test]
fn it_is_taken_in_milliseconds() {
    let parsed = Config::parse("xks.toml", &config("session_idle_max_ms = 5000")).unwrap();
    assert_eq!(parsed.hsms[0].session_idle_max, Some(Duration::from_secs(5)));
    assert_eq!(Config::parse("xks.toml", &config("")).unwrap().hsms[0].session_idle_max, None);
}

#[test]
fn out_of_range_it_is_refused_at_its_line() {
    for value in ["99", "86400001"] {
        let line = format!("session_idle_max_ms = {value}");
        let message = Config::parse("xks.toml", &config(&line)).err().unwrap().to_string();
        assert!(message.starts_with("xks.toml:8: session_idle_max_ms = "), "{message}");
        assert!(message.contains("100"), "{message}");
    }
}
