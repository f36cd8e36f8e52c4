//! Whether files have changed, told by their contents.
//!
//! Place on the map: the daemon's watch compares the files of [`Config::files`](super::Config::files) with it.
//!
//! Contents, and looked at now and then, not the kernel's notifications (inotify): Kubernetes swaps a symbolic link two
//! directories up, editors and certificate tools rename a new file over the old one, and on NFS the change happens on
//! another machine. Each of them looks different to inotify, or like nothing; to a reader they all look the same.
//! Modification times would do for none of the three either. The files are few and small.

use super::build::read_limited;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What several files hold. Equal when all contents are; a file that cannot be read has its reason instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<PathBuf, [u8; 32]>);

impl Fingerprint {
    /// Reads the files.
    pub fn of(files: &BTreeSet<PathBuf>) -> Self {
        Self(BTreeMap::new()).for_files(files)
    }

    /// The same for other files: those that it has not seen yet are read, and only those.
    #[must_use]
    pub fn for_files(mut self, files: &BTreeSet<PathBuf>) -> Self {
        self.0.retain(|file, _| files.contains(file));
        for file in files {
            self.0.entry(file.clone()).or_insert_with(|| digest(file));
        }
        self
    }
}

fn digest(file: &Path) -> [u8; 32] {
    let mut digest = Sha256::new();
    match read_limited(file).map(Zeroizing::new) {
        Ok(contents) => {
            digest.update(b"contents");
            digest.update(&*contents);
        }
        Err(error) => {
            digest.update(b"error");
            digest.update(error.to_string());
        }
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn it_tells_a_change_a_removal_and_a_swapped_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let files = BTreeSet::from([path("a"), path("link/b")]);
        // As Kubernetes mounts a secret: a link to a directory that is replaced as a whole.
        for (name, text) in [("old", "one"), ("new", "two"), ("same", "two")] {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("b"), text).unwrap();
        }
        let relink = |to: &str| {
            symlink(to, path("fresh")).unwrap();
            fs::rename(path("fresh"), path("link")).unwrap();
        };
        relink("old");
        let absent = Fingerprint::of(&files);
        assert_eq!(absent, Fingerprint::of(&files));
        fs::write(path("a"), "").unwrap();
        assert_eq!(absent, absent.clone().for_files(&files), "what it has seen is not read again");
        let empty = Fingerprint::of(&files);
        assert_ne!(absent, empty);
        relink("new");
        let swapped = Fingerprint::of(&files);
        assert_ne!(empty, swapped);
        relink("same");
        assert_eq!(swapped, Fingerprint::of(&files), "other files with the same contents");
        fs::remove_file(path("a")).unwrap();
        assert_ne!(swapped, Fingerprint::of(&files));
    }
}
