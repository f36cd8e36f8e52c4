//! A test device, and no security module: a PKCS#11 library that stands in front of a real one and injects faults.
//!
//! Any program that can load a PKCS#11 module can be given this one instead. It forwards every function of the
//! v2.40 table to the real module, does what its control file says on the way, and keeps count. It is told what to
//! do by the environment of its process, read when the program first asks for the table (`C_GetFunctionList`):
//!
//! | variable | what it names |
//! |---|---|
//! | `SIM_HSM_PKCS11_MODULE` | the real module, such as `/usr/lib/softhsm/libsofthsm2.so`; needed |
//! | `SIM_HSM_PKCS11_FAULTS` | the control file; without one, or while it is absent or empty, there are no faults |
//! | `SIM_HSM_PKCS11_STATS` | where the counters are written as JSON, at each `C_GetInfo` and at `C_Finalize` |
//!
//! The control file is TOML and is read again as soon as it changes: write another one beside it and rename it into
//! place. A file with a mistake in it changes nothing and costs one line on standard error.
//!
//! ```toml
//! [[fault]]
//! function = "C_Encrypt"      # or a list, or "*" for all but C_GetInfo
//! action = "return"
//! rv = "CKR_DEVICE_ERROR"     # or a number
//! count = 3                   # only the next three calls; without it, all
//! ```
//!
//! | action | what it does before the call reaches the real module |
//! |---|---|
//! | `return` | answers `rv` instead |
//! | `delay` | waits `ms` milliseconds |
//! | `hang` | waits until the control file no longer holds this fault |
//! | `corrupt` | lets the call through and flips a bit of its output |
//! | `drop-sessions` | closes all sessions: their numbers are invalid, and given to the next that are opened |
//! | `logout` | logs the user out behind the program's back |
//! | `finalize` | finalises the real module behind the program's back |
//! | `swap-handles` | renumbers the objects: what named one object now names another |
//!
//! `count = N` limits a fault to the next N calls, `every = N` to each Nth one, `idle_ms = N` to calls on a session
//! that was not used for so long (a firewall that forgets idle connections). Several faults may meet in one call;
//! they happen in the file's order, and the first `return` ends it.
//!
//! Sessions have numbers of this module's own, the lowest that is free, as many vendors' libraries do it. Finalising
//! waits for calls inside the real module, so that no fault makes that one crash; a call that hangs here has not yet
//! reached it.
//!
//! Place on the map: above a real module, below whatever loads it. It knows nothing of the proxy.

mod control;
mod counters;
mod faults;
mod handles;
mod return_values;
mod sessions;
mod shim;
mod table;

pub use table::C_GetFunctionList;
