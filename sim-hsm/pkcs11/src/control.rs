//! The control file: which faults there are, as its author wrote them.
//!
//! Place on the map: `faults` reads the file through this when it has changed.

use super::return_values;
use cryptoki_sys::CK_RV;
use serde::Deserialize;
use std::time::Duration;

/// One `[[fault]]`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    functions: Vec<String>,
    pub(crate) action: Action,
    /// Only so many calls, then no more.
    pub(crate) count: Option<u64>,
    /// Only each call whose number divides by this.
    pub(crate) every: u64,
    /// Only calls on a session that was not used for so long.
    pub(crate) idle: Option<Duration>,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Return(CK_RV),
    Delay(Duration),
    Hang,
    Corrupt,
    DropSessions,
    Logout,
    Finalize,
    SwapHandles,
}

impl Fault {
    pub(crate) fn concerns(&self, function: &str) -> bool {
        // C_GetInfo writes the counters, which are wanted most while nothing works.
        let meant_by_all = function != "C_GetInfo";
        self.functions.iter().any(|named| (named == "*" && meant_by_all) || named == function)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    fault: Vec<RawFault>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFault {
    function: OneOrMany,
    action: RawAction,
    rv: Option<NameOrNumber>,
    ms: Option<u64>,
    count: Option<u64>,
    every: Option<u64>,
    idle_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NameOrNumber {
    Name(String),
    Number(CK_RV),
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum RawAction {
    Return,
    Delay,
    Hang,
    Corrupt,
    DropSessions,
    Logout,
    Finalize,
    SwapHandles,
}

/// Reads a control file; what is wrong with it in one line. `knows` says whether a function is in the table.
pub(crate) fn parse(text: &str, knows: impl Fn(&str) -> bool) -> Result<Vec<Fault>, String> {
    let file: RawFile = toml::from_str(text).map_err(|error| {
        let line =
            error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        format!("line {line}: {}", error.message())
    })?;
    file.fault.into_iter().enumerate().map(|(index, raw)| check(index + 1, raw, &knows)).collect()
}

fn check(number: usize, raw: RawFault, knows: impl Fn(&str) -> bool) -> Result<Fault, String> {
    let wrong = |what: String| format!("fault {number}: {what}");
    let functions = match raw.function {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    };
    if let Some(unknown) = functions.iter().find(|name| *name != "*" && !knows(name)) {
        return Err(wrong(format!(
            "PKCS#11 v2.40 has no function {unknown:?}: write one such as \"C_Encrypt\""
        )));
    }
    if raw.rv.is_some() != (raw.action == RawAction::Return) {
        return Err(wrong("rv goes with action \"return\", and only with that".into()));
    }
    if raw.ms.is_some() != (raw.action == RawAction::Delay) {
        return Err(wrong("ms goes with action \"delay\", and only with that".into()));
    }
    if raw.every == Some(0) {
        return Err(wrong("every = 0 is no call: write 1 or more".into()));
    }
    let rv = match raw.rv {
        Some(NameOrNumber::Number(number)) => number,
        Some(NameOrNumber::Name(name)) => return_values::number(&name)
            .ok_or_else(|| wrong(format!("no return value is called {name:?}: write CKR_… or a number")))?,
        None => 0,
    };
    let action = match raw.action {
        RawAction::Return => Action::Return(rv),
        RawAction::Delay => Action::Delay(Duration::from_millis(raw.ms.unwrap_or(0))),
        RawAction::Hang => Action::Hang,
        RawAction::Corrupt => Action::Corrupt,
        RawAction::DropSessions => Action::DropSessions,
        RawAction::Logout => Action::Logout,
        RawAction::Finalize => Action::Finalize,
        RawAction::SwapHandles => Action::SwapHandles,
    };
    Ok(Fault {
        functions,
        action,
        count: raw.count,
        every: raw.every.unwrap_or(1),
        idle: raw.idle_ms.map(Duration::from_millis),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Fault>, String> {
        parse(text, |name| name == "C_Encrypt" || name == "C_Decrypt")
    }

    #[test]
    fn a_file_is_read() {
        let faults = read(
            "[[fault]]\nfunction = [\"C_Encrypt\", \"C_Decrypt\"]\naction = \"return\"\nrv = 0x30\ncount = 2\n\
             [[fault]]\nfunction = \"*\"\naction = \"delay\"\nms = 5\nevery = 3\nidle_ms = 7\n",
        )
        .unwrap();
        assert_eq!(faults[0].action, Action::Return(0x30));
        assert_eq!((faults[0].count, faults[0].every, faults[0].idle), (Some(2), 1, None));
        assert!(faults[0].concerns("C_Decrypt") && !faults[0].concerns("C_Login"));
        assert_eq!(faults[1].action, Action::Delay(Duration::from_millis(5)));
        assert_eq!((faults[1].every, faults[1].idle), (3, Some(Duration::from_millis(7))));
        assert!(faults[1].concerns("C_Login") && !faults[1].concerns("C_GetInfo"));
        assert_eq!(read(""), Ok(Vec::new()));
    }

    #[test]
    fn mistakes_are_told_in_one_line() {
        let fault = |rest: &str| read(&format!("[[fault]]\nfunction = \"C_Encrypt\"\n{rest}")).unwrap_err();
        for (rest, part) in [
            ("action = \"explode\"", "line 3: unknown variant `explode`"),
            ("action = \"hang\"\ncolour = 1", "line 4: unknown field `colour`"),
            ("action = \"return\"", "fault 1: rv goes with"),
            ("action = \"hang\"\nrv = 1", "fault 1: rv goes with"),
            ("action = \"delay\"", "fault 1: ms goes with"),
            ("action = \"hang\"\nevery = 0", "every = 0"),
            ("action = \"return\"\nrv = \"CKR_TEAPOT\"", "\"CKR_TEAPOT\""),
        ] {
            let message = fault(rest);
            assert!(message.contains(part) && !message.contains('\n'), "{rest}: {message}");
        }
        let message = read("[[fault]]\nfunction = \"C_Encypt\"\naction = \"hang\"").unwrap_err();
        assert!(message.contains("no function \"C_Encypt\""), "{message}");
    }
}
