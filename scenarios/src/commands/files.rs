//! The files that commands read and write: scenarios, and whatever a run leaves behind.

use scenarios::catalogue;
use scenarios::scenario::{FILE_BYTES_MAX, Scenario, nearest};
use std::path::Path;

/// A scenario by its name in the catalogue, or by the path of its file.
///
/// # Errors
/// In words: no such name (with the nearest), no such file, not a scenario.
pub(crate) fn load(scenario: &str) -> Result<Scenario, String> {
    if let Some(entry) = catalogue::find(scenario) {
        return Scenario::parse(entry.name, &format!("catalogue/{}.toml", entry.name), entry.text)
            .map_err(|error| error.to_string());
    }
    let path = Path::new(scenario);
    let looks_like_path = scenario.contains(['/', '.']) || path.exists();
    if !looks_like_path {
        let names = catalogue::CATALOGUE.iter().map(|entry| entry.name);
        let hint = match nearest(scenario, names.clone()) {
            Some(near) => format!(" did you mean `{near}`?"),
            None => String::new(),
        };
        let all = names.collect::<Vec<_>>().join(", ");
        return Err(format!(
            "no scenario is called `{scenario}`;{hint} there are: {all}; or give the path of a file"
        ));
    }
    let size = std::fs::metadata(path)
        .map_err(|error| format!("cannot read the scenario file {scenario}: {error}"))?
        .len();
    if size > FILE_BYTES_MAX as u64 {
        return Err(format!("{scenario} has {size} bytes; a scenario file has at most {FILE_BYTES_MAX}"));
    }
    let bytes =
        std::fs::read(path).map_err(|error| format!("cannot read the scenario file {scenario}: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        format!(
            "{scenario} is not UTF-8 text: the first wrong byte is at offset {}",
            error.utf8_error().valid_up_to()
        )
    })?;
    let name = path.file_stem().map_or_else(|| "scenario".into(), |stem| stem.to_string_lossy().into_owned());
    Scenario::parse(&name, scenario, &text).map_err(|error| error.to_string())
}

/// The largest result that is read back: a sweep of as many runs as there can be.
const RESULT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A file that an earlier command has left, as text.
///
/// # Errors
/// In words: no such file, too large, not text.
pub(crate) fn read_text(path: &Path) -> Result<String, String> {
    let wrong = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let size = std::fs::metadata(path).map_err(wrong)?.len();
    if size > RESULT_BYTES_MAX {
        return Err(format!("{} has {size} bytes; at most {RESULT_BYTES_MAX} are read", path.display()));
    }
    std::fs::read_to_string(path).map_err(wrong)
}

/// The path that a scenario's own files are looked for beside: its file, or that of the catalogue.
pub(crate) fn origin(scenario: &str) -> String {
    match catalogue::find(scenario) {
        Some(entry) => format!("catalogue/{}.toml", entry.name),
        None => scenario.to_owned(),
    }
}

/// Writes a file that must not be there yet, unless `over` an old one is wanted; `None` when it is there.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_new(path: &Path, text: &str, over: bool) -> Result<Option<()>, String> {
    use std::io::Write;
    let wrong = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    if over {
        return write_whole(path, text).map(Some);
    }
    // The look and the making are one step: nobody's file is lost in between.
    match std::fs::File::create_new(path) {
        Ok(mut file) => file.write_all(text.as_bytes()).map(Some).map_err(wrong),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(wrong(error)),
    }
}

/// Writes a file under another name first, so that a reader never finds half of it.
///
/// # Errors
/// When the directory cannot be written to.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<(), String> {
    write_whole_or(path, text, "another directory with --out")
}

/// The same; `instead` says in words what to choose where it cannot be written.
///
/// # Errors
/// As [`write_whole`].
pub(crate) fn write_whole_or(path: &Path, text: &str, instead: &str) -> Result<(), String> {
    let half = path.with_extension("part");
    std::fs::write(&half, text)
        .and_then(|()| std::fs::rename(&half, path))
        .map_err(|error| format!("cannot write {}: {error}; choose {instead}", path.display()))
}
