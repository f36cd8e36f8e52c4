//! The module under test in front of SoftHSM2, and its control file.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use crate::softhsm::SoftHsm;
use std::path::PathBuf;
use std::sync::OnceLock;

/// One for each test process, since a loaded library is.
pub(crate) struct Shim {
    pub(crate) module: PathBuf,
    faults: PathBuf,
    stats: PathBuf,
}

impl Shim {
    /// Puts the module's environment in place; to be called before it is loaded.
    pub(crate) fn get() -> &'static Self {
        static SHARED: OnceLock<Shim> = OnceLock::new();
        SHARED.get_or_init(|| {
            let softhsm = SoftHsm::get();
            let this = Self {
                module: module(),
                faults: softhsm.directory.join("faults.toml"),
                stats: softhsm.directory.join("stats.json"),
            };
            for (name, value) in [
                ("SIM_HSM_PKCS11_MODULE", &softhsm.module),
                ("SIM_HSM_PKCS11_FAULTS", &this.faults),
                ("SIM_HSM_PKCS11_STATS", &this.stats),
            ] {
                // SAFETY: the first test to come here does it before the library is loaded, and Rust's own readers
                // of the environment are locked out by `set_var`.
                #[expect(unsafe_code, reason = "the library has no other door")]
                unsafe {
                    std::env::set_var(name, value);
                }
            }
            this
        })
    }

    /// From the next call on these are the faults.
    pub(crate) fn faults(&self, text: &str) {
        let beside = self.faults.with_extension("next");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, &self.faults).unwrap();
    }

    /// One fault.
    pub(crate) fn fault(&self, function: &str, rest: &str) {
        self.faults(&format!("[[fault]]\nfunction = {function}\n{rest}\n"));
    }

    /// No fault any more.
    pub(crate) fn heal(&self) {
        self.faults("");
    }

    /// What the module counted, as of the last `C_GetInfo`.
    pub(crate) fn stats(&self) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(&self.stats).unwrap()).unwrap()
    }
}

/// Cargo puts the library beside the test programs of its package.
fn module() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let name = format!("{}sim_hsm_pkcs11{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let module = program.parent().unwrap().join(name);
    assert!(module.exists(), "{} is not built", module.display());
    module
}
