//! The inputs of one target: the committed ones, and those that runs on this machine have added.

use super::program::Program;
use crate::{Outcome, run, workspace};
use std::path::{Path, PathBuf};

/// Most bytes of inputs per target that minimising keeps beside the seeds, so that all targets stay under the 2 MiB that
/// the crate `fuzz` holds its corpus to.
const KEPT_BYTES_MAX: u64 = 98_304;

/// Three directories in `fuzz/`.
pub(super) struct Corpus {
    target: String,
    /// `corpus/TARGET`: seeds, whose names people gave, and inputs named by their digest.
    pub(super) committed: PathBuf,
    /// `working/TARGET`, unknown to git: what runs have added.
    pub(super) working: PathBuf,
    /// `findings/TARGET`, unknown to git: what broke the target.
    pub(super) findings: PathBuf,
}

impl Corpus {
    pub(super) fn of(target: &str) -> Self {
        let at = |kind: &str| workspace().join("fuzz").join(kind).join(target);
        Self {
            target: target.to_owned(),
            committed: at("corpus"),
            working: at("working"),
            findings: at("findings"),
        }
    }

    /// Makes the directories that git does not know.
    pub(super) fn prepare(&self) -> Outcome {
        [&self.working, &self.findings].into_iter().try_for_each(|directory| {
            std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))
        })
    }

    /// How many inputs this machine has added.
    pub(super) fn working_count(&self) -> Result<usize, String> {
        files(&self.working).map(|files| files.len())
    }

    /// Leaves beside the seeds the fewest inputs, committed or working, that reach everything that all of them reach; the
    /// smallest first, up to the limit.
    pub(super) fn minimise(&self, program: &Program) -> Outcome {
        self.prepare()?;
        let fresh = tempfile::tempdir().map_err(|error| format!("no temporary directory ({error})"))?;
        let committed = files(&self.committed)?;
        let (digests, seeds): (Vec<_>, Vec<_>) = committed.into_iter().partition(|(path, _)| is_digest(path));
        for (seed, _) in &seeds {
            copy_into(seed, fresh.path())?;
        }
        let mut merge = program.command(&self.target);
        merge.args(["-merge=1", "-rss_limit_mb=2048"]).arg(fresh.path());
        run(merge.arg(&self.committed).arg(&self.working))?;

        let mut found: Vec<_> =
            files(fresh.path())?.into_iter().filter(|(path, _)| is_digest(path)).collect();
        found.sort_by(|one, other| (one.1, &one.0).cmp(&(other.1, &other.0)));
        for (path, _) in &digests {
            std::fs::remove_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let (mut kept, mut bytes) = (0, 0);
        for (path, size) in &found {
            if bytes + size > KEPT_BYTES_MAX {
                break;
            }
            copy_into(path, &self.committed)?;
            (kept, bytes) = (kept + 1, bytes + size);
        }
        println!(
            "{}: {} seeds and {kept} inputs of {bytes} bytes, before {}; {} left out for the limit of {KEPT_BYTES_MAX} bytes",
            self.target,
            seeds.len(),
            digests.len(),
            found.len() - kept
        );
        Ok(())
    }
}

/// libFuzzer names what it writes by its SHA-1.
fn is_digest(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The files of a directory with their sizes in bytes.
fn files(directory: &Path) -> Result<Vec<(PathBuf, u64)>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    std::fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| {
            let entry = entry.map_err(failed)?;
            Ok((entry.path(), entry.metadata().map_err(failed)?.len()))
        })
        .collect()
}

fn copy_into(file: &Path, directory: &Path) -> Outcome {
    let name = file.file_name().unwrap_or_default();
    let copied = std::fs::copy(file, directory.join(name));
    copied.map(|_| ()).map_err(|error| format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_people_gave_are_no_digests() {
        assert!(is_digest(Path::new("corpus/uri/da39a3ee5e6b4b0d3255bfef95601890afd80709")));
        for name in
            ["encrypt", "da39a3ee5e6b4b0d3255bfef95601890afd8070", "da39a3ee5e6b4b0d3255bfef95601890afd8070z"]
        {
            assert!(!is_digest(Path::new(name)), "{name}");
        }
    }
}
