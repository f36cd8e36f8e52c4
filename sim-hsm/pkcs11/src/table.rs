//! The C side: the table of functions, and the real module's.
//!
//! Place on the map: the only module with `unsafe` in it. Each C function hands its arguments, as they came, to
//! [`Shim::call`], which decides whether they reach the function of the same name in the real module.

#![expect(unsafe_code, reason = "C functions and a library of C functions are what this module is about")]
#![expect(non_snake_case, reason = "the functions have the standard's names")]

use super::shim::Shim;
use cryptoki_sys::*;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// The real module.
pub(crate) struct Real {
    /// Kept loaded for as long as the process lives.
    _library: Pkcs11,
    functions: &'static CK_FUNCTION_LIST,
    /// Read by calls inside the module, written while it is initialised or finalised: doing that under a running
    /// call is undefined (PKCS#11 v3.2, 5.4.2), and would crash some.
    inside: RwLock<()>,
    initialised: AtomicBool,
    finalised: AtomicU64,
}

impl Real {
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        let wrong = |why: &dyn std::fmt::Display| {
            let why = why.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            format!("the real module {} cannot be used: {why}", path.display())
        };
        // SAFETY: whoever names the module vouches for its initialisers, as with any program that loads it.
        let library = unsafe { Pkcs11::new(path) }.map_err(|error| wrong(&error))?;
        if library.C_GetFunctionList.is_err() {
            return Err(wrong(&"it has no C_GetFunctionList"));
        }
        let mut functions = std::ptr::null_mut();
        // SAFETY: the symbol exists and has the standard's type; the pointer is a valid place for its answer.
        let rv = unsafe { library.C_GetFunctionList(&raw mut functions) };
        // SAFETY: the standard promises a table that lives as long as the library, which is never unloaded.
        let functions = unsafe { functions.as_ref() };
        match functions {
            Some(functions) if rv == CKR_OK => Ok(Self {
                _library: library,
                functions,
                inside: RwLock::new(()),
                initialised: AtomicBool::new(false),
                finalised: AtomicU64::new(0),
            }),
            _ => Err(wrong(&format!("C_GetFunctionList answers {rv:#x}"))),
        }
    }

    /// A call is inside while the guard lives.
    pub(crate) fn inside(&self) -> RwLockReadGuard<'_, ()> {
        self.inside.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_initialised(&self) -> bool {
        self.initialised.load(Ordering::Acquire)
    }

    /// Sessions live as long as this number stays the same.
    pub(crate) fn generation(&self) -> u64 {
        self.finalised.load(Ordering::Acquire)
    }

    fn initialize(&self, arguments: CK_VOID_PTR) -> CK_RV {
        let _alone = self.inside.write().unwrap_or_else(PoisonError::into_inner);
        let Some(initialize) = self.functions.C_Initialize else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the real function, with the arguments as the program gave them.
        let rv = unsafe { initialize(arguments) };
        if matches!(rv, CKR_OK | CKR_CRYPTOKI_ALREADY_INITIALIZED) {
            self.initialised.store(true, Ordering::Release);
        }
        rv
    }

    /// Waits for the calls inside.
    pub(crate) fn finalize(&self) -> CK_RV {
        self.finalize_with(std::ptr::null_mut())
    }

    fn finalize_with(&self, argument: CK_VOID_PTR) -> CK_RV {
        let _alone = self.inside.write().unwrap_or_else(PoisonError::into_inner);
        let Some(finalize) = self.functions.C_Finalize else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the real function; nobody is inside the module.
        let rv = unsafe { finalize(argument) };
        if matches!(rv, CKR_OK | CKR_CRYPTOKI_NOT_INITIALIZED) {
            self.initialised.store(false, Ordering::Release);
            self.finalised.fetch_add(1, Ordering::AcqRel);
        }
        rv
    }

    pub(crate) fn close_session(&self, session: CK_SESSION_HANDLE, generation: u64) {
        let _inside = self.inside();
        if generation == self.generation()
            && let Some(close) = self.functions.C_CloseSession
        {
            // SAFETY: a session that the real module opened and that nothing uses any more.
            unsafe { close(session) };
        }
    }

    pub(crate) fn logout(&self, session: CK_SESSION_HANDLE) {
        let _inside = self.inside();
        if let Some(logout) = self.functions.C_Logout {
            // SAFETY: a session that the real module opened.
            unsafe { logout(session) };
        }
    }
}

/// The type of an argument. Session and object numbers are marked, because both are translated.
macro_rules! type_of {
    (SESSION) => {
        CK_SESSION_HANDLE
    };
    (OBJECT) => {
        CK_OBJECT_HANDLE
    };
    ($other:ident) => {
        $other
    };
}

/// The session among the arguments, which if there is one comes first.
macro_rules! session_of {
    ($value:ident: SESSION) => {
        Some($value)
    };
    ($value:ident: $other:ident) => {
        None
    };
}

/// An argument as the real module is to have it.
macro_rules! inward {
    ($passage:ident, $session:ident, $value:ident: SESSION) => {
        $session
    };
    ($passage:ident, $session:ident, $value:ident: OBJECT) => {
        $passage.object($value)
    };
    ($passage:ident, $session:ident, $value:ident: $other:ident) => {
        $value
    };
}

/// What an argument points to after success, as the program is to have it: only object numbers change.
macro_rules! outward {
    ($passage:ident, $value:ident: CK_OBJECT_HANDLE_PTR) => {
        // SAFETY: after success the real module has written one object number there.
        unsafe { show($passage, $value, 1) }
    };
    ($passage:ident, $value:ident: $other:ident) => {};
}

/// The C functions that only pass through, and the table of all.
macro_rules! functions {
    ($($name:ident(
        $first:ident: $first_type:ident $(, $value:ident: $type:ident)*
    ) $(corrupt($output:ident, $len:expr))?;)*) => {
        $(
            // SAFETY: to be called as the standard says of the function of this name.
            unsafe extern "C" fn $name($first: type_of!($first_type) $(, $value: type_of!($type))*) -> CK_RV {
                let Some(shim) = Shim::get() else { return CKR_GENERAL_ERROR };
                let session = session_of!($first: $first_type);
                shim.call(stringify!($name), session, |real, passage, session| {
                    let _ = (passage, session);
                    let Some(function) = real.functions.$name else { return CKR_FUNCTION_NOT_SUPPORTED };
                    // SAFETY: the real function of the same name and type, with the program's own arguments; only
                    // numbers of sessions and objects are replaced by those the real module gave.
                    let rv = unsafe {
                        function(
                            inward!(passage, session, $first: $first_type)
                            $(, inward!(passage, session, $value: $type))*
                        )
                    };
                    if rv == CKR_OK {
                        $(outward!(passage, $value: $type);)*
                        $(
                            // SAFETY: after success the real module has written so many bytes there.
                            unsafe { corrupt(passage.corrupt, $output, $len) };
                        )?
                    }
                    rv
                })
            }
        )*

        static TABLE: CK_FUNCTION_LIST = CK_FUNCTION_LIST {
            version: CK_VERSION { major: 2, minor: 40 },
            C_Initialize: Some(C_Initialize),
            C_Finalize: Some(C_Finalize),
            C_GetFunctionList: Some(C_GetFunctionList),
            C_OpenSession: Some(C_OpenSession),
            C_CloseSession: Some(C_CloseSession),
            C_CloseAllSessions: Some(C_CloseAllSessions),
            C_FindObjects: Some(C_FindObjects),
            C_WaitForSlotEvent: Some(C_WaitForSlotEvent),
            $($name: Some($name),)*
        };

        /// The table has a function of this name.
        pub(crate) fn has(function: &str) -> bool {
            const WITH_CARE: [&str; 8] = [
                "C_Initialize", "C_Finalize", "C_GetFunctionList", "C_OpenSession", "C_CloseSession",
                "C_CloseAllSessions", "C_FindObjects", "C_WaitForSlotEvent",
            ];
            WITH_CARE.contains(&function) || [$(stringify!($name)),*].contains(&function)
        }
    };
}

functions! {
    C_GetInfo(a: CK_INFO_PTR);
    C_GetSlotList(a: CK_BBOOL, b: CK_SLOT_ID_PTR, c: CK_ULONG_PTR);
    C_GetSlotInfo(a: CK_SLOT_ID, b: CK_SLOT_INFO_PTR);
    C_GetTokenInfo(a: CK_SLOT_ID, b: CK_TOKEN_INFO_PTR);
    C_GetMechanismList(a: CK_SLOT_ID, b: CK_MECHANISM_TYPE_PTR, c: CK_ULONG_PTR);
    C_GetMechanismInfo(a: CK_SLOT_ID, b: CK_MECHANISM_TYPE, c: CK_MECHANISM_INFO_PTR);
    C_InitToken(a: CK_SLOT_ID, b: CK_UTF8CHAR_PTR, c: CK_ULONG, d: CK_UTF8CHAR_PTR);
    C_InitPIN(a: SESSION, b: CK_UTF8CHAR_PTR, c: CK_ULONG);
    C_SetPIN(a: SESSION, b: CK_UTF8CHAR_PTR, c: CK_ULONG, d: CK_UTF8CHAR_PTR, e: CK_ULONG);
    C_GetSessionInfo(a: SESSION, b: CK_SESSION_INFO_PTR);
    C_GetOperationState(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG_PTR);
    C_SetOperationState(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: OBJECT, e: OBJECT);
    C_Login(a: SESSION, b: CK_USER_TYPE, c: CK_UTF8CHAR_PTR, d: CK_ULONG);
    C_Logout(a: SESSION);
    C_CreateObject(a: SESSION, b: CK_ATTRIBUTE_PTR, c: CK_ULONG, d: CK_OBJECT_HANDLE_PTR);
    C_CopyObject(a: SESSION, b: OBJECT, c: CK_ATTRIBUTE_PTR, d: CK_ULONG, e: CK_OBJECT_HANDLE_PTR);
    C_DestroyObject(a: SESSION, b: OBJECT);
    C_GetObjectSize(a: SESSION, b: OBJECT, c: CK_ULONG_PTR);
    C_GetAttributeValue(a: SESSION, b: OBJECT, c: CK_ATTRIBUTE_PTR, d: CK_ULONG);
    C_SetAttributeValue(a: SESSION, b: OBJECT, c: CK_ATTRIBUTE_PTR, d: CK_ULONG);
    C_FindObjectsInit(a: SESSION, b: CK_ATTRIBUTE_PTR, c: CK_ULONG);
    C_FindObjectsFinal(a: SESSION);
    C_EncryptInit(a: SESSION, b: CK_MECHANISM_PTR, c: OBJECT);
    C_Encrypt(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: CK_BYTE_PTR, e: CK_ULONG_PTR) corrupt(d, *e);
    C_EncryptUpdate(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: CK_BYTE_PTR, e: CK_ULONG_PTR) corrupt(d, *e);
    C_EncryptFinal(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG_PTR) corrupt(b, *c);
    C_DecryptInit(a: SESSION, b: CK_MECHANISM_PTR, c: OBJECT);
    C_Decrypt(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: CK_BYTE_PTR, e: CK_ULONG_PTR) corrupt(d, *e);
    C_DecryptUpdate(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: CK_BYTE_PTR, e: CK_ULONG_PTR) corrupt(d, *e);
    C_DecryptFinal(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG_PTR) corrupt(b, *c);
    C_DigestInit(a: SESSION, b: CK_MECHANISM_PTR);
    C_Digest(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: CK_BYTE_PTR, e: CK_ULONG_PTR) corrupt(d, *e);
    C_DigestUpdate(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG);
    C_DigestKey(a: SESSION, b: OBJECT);
    C_DigestFinal(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG_PTR) corrupt(b, *c);
    C_SignInit(a: SESSION, b: CK_MECHANISM_PTR, c: OBJECT);
    C_Sign(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: CK_BYTE_PTR, e: CK_ULONG_PTR) corrupt(d, *e);
    C_SignUpdate(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG);
    C_SignFinal(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG_PTR) corrupt(b, *c);
    C_SignRecoverInit(a: SESSION, b: CK_MECHANISM_PTR, c: OBJECT);
    C_SignRecover(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: CK_BYTE_PTR, e: CK_ULONG_PTR) corrupt(d, *e);
    C_VerifyInit(a: SESSION, b: CK_MECHANISM_PTR, c: OBJECT);
    C_Verify(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: CK_BYTE_PTR, e: CK_ULONG);
    C_VerifyUpdate(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG);
    C_VerifyFinal(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG);
    C_VerifyRecoverInit(a: SESSION, b: CK_MECHANISM_PTR, c: OBJECT);
    C_VerifyRecover(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: CK_BYTE_PTR, e: CK_ULONG_PTR) corrupt(d, *e);
    C_DigestEncryptUpdate(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: CK_BYTE_PTR, e: CK_ULONG_PTR) corrupt(d, *e);
    C_DecryptDigestUpdate(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: CK_BYTE_PTR, e: CK_ULONG_PTR) corrupt(d, *e);
    C_SignEncryptUpdate(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: CK_BYTE_PTR, e: CK_ULONG_PTR) corrupt(d, *e);
    C_DecryptVerifyUpdate(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG, d: CK_BYTE_PTR, e: CK_ULONG_PTR) corrupt(d, *e);
    C_GenerateKey(a: SESSION, b: CK_MECHANISM_PTR, c: CK_ATTRIBUTE_PTR, d: CK_ULONG, e: CK_OBJECT_HANDLE_PTR);
    C_GenerateKeyPair(a: SESSION, b: CK_MECHANISM_PTR, c: CK_ATTRIBUTE_PTR, d: CK_ULONG, e: CK_ATTRIBUTE_PTR, f: CK_ULONG, g: CK_OBJECT_HANDLE_PTR, h: CK_OBJECT_HANDLE_PTR);
    C_WrapKey(a: SESSION, b: CK_MECHANISM_PTR, c: OBJECT, d: OBJECT, e: CK_BYTE_PTR, f: CK_ULONG_PTR) corrupt(e, *f);
    C_UnwrapKey(a: SESSION, b: CK_MECHANISM_PTR, c: OBJECT, d: CK_BYTE_PTR, e: CK_ULONG, f: CK_ATTRIBUTE_PTR, g: CK_ULONG, h: CK_OBJECT_HANDLE_PTR);
    C_DeriveKey(a: SESSION, b: CK_MECHANISM_PTR, c: OBJECT, d: CK_ATTRIBUTE_PTR, e: CK_ULONG, f: CK_OBJECT_HANDLE_PTR);
    C_SeedRandom(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG);
    C_GenerateRandom(a: SESSION, b: CK_BYTE_PTR, c: CK_ULONG) corrupt(b, c);
    C_GetFunctionStatus(a: SESSION);
    C_CancelFunction(a: SESSION);
}

/// Replaces `count` object numbers at `objects` by those the program is to see.
///
/// # Safety
/// `objects` is null or points to so many.
unsafe fn show(passage: &super::shim::Passage<'_>, objects: CK_OBJECT_HANDLE_PTR, count: CK_ULONG) {
    let Ok(count) = usize::try_from(count) else { return };
    if objects.is_null() {
        return;
    }
    // SAFETY: promised by the caller.
    for object in unsafe { std::slice::from_raw_parts_mut(objects, count) } {
        *object = passage.show(*object);
    }
}

/// Flips a bit of the first of `len` bytes at `output`, if `wanted`.
///
/// # Safety
/// `output` is null (the program asks for the length only) or points to so many bytes.
unsafe fn corrupt(wanted: bool, output: CK_BYTE_PTR, len: CK_ULONG) {
    if wanted && !output.is_null() && len > 0 {
        // SAFETY: promised by the caller; there is at least one byte.
        unsafe { *output ^= 1 };
    }
}

/// The table. The one function a program looks up by name.
///
/// # Safety
/// As the standard says: `table` is a valid place for the answer, or null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(table: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    if table.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    if Shim::get().is_none() {
        return CKR_GENERAL_ERROR;
    }
    // SAFETY: not null, and valid by the standard. Programs only read the table.
    unsafe { *table = (&raw const TABLE).cast_mut() };
    CKR_OK
}

unsafe extern "C" fn C_Initialize(arguments: CK_VOID_PTR) -> CK_RV {
    Shim::get().map_or(CKR_GENERAL_ERROR, |shim| shim.initialise(|real| real.initialize(arguments)))
}

unsafe extern "C" fn C_Finalize(argument: CK_VOID_PTR) -> CK_RV {
    Shim::get()
        .map_or(CKR_GENERAL_ERROR, |shim| shim.finalise_for_program(|real| real.finalize_with(argument)))
}

unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: CK_VOID_PTR,
    notify: CK_NOTIFY,
    session: CK_SESSION_HANDLE_PTR,
) -> CK_RV {
    let Some(shim) = Shim::get() else { return CKR_GENERAL_ERROR };
    shim.call("C_OpenSession", None, |real, passage, _| {
        let Some(open) = real.functions.C_OpenSession else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the real function with the program's own arguments.
        let rv = unsafe { open(slot, flags, application, notify, session) };
        if rv == CKR_OK {
            // SAFETY: after success the real module has written its number there.
            unsafe { *session = passage.opened(slot, *session) };
        }
        rv
    })
}

unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    let Some(shim) = Shim::get() else { return CKR_GENERAL_ERROR };
    let rv = shim.call("C_CloseSession", Some(session), |_, _, _| CKR_OK);
    if rv == CKR_OK {
        shim.close_session(session);
    }
    rv
}

unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    let Some(shim) = Shim::get() else { return CKR_GENERAL_ERROR };
    let rv = shim.call("C_CloseAllSessions", None, |_, _, _| CKR_OK);
    if rv == CKR_OK {
        shim.drop_sessions(Some(slot));
    }
    rv
}

unsafe extern "C" fn C_FindObjects(
    session: CK_SESSION_HANDLE,
    objects: CK_OBJECT_HANDLE_PTR,
    most: CK_ULONG,
    count: CK_ULONG_PTR,
) -> CK_RV {
    let Some(shim) = Shim::get() else { return CKR_GENERAL_ERROR };
    shim.call("C_FindObjects", Some(session), |real, passage, session| {
        let Some(find) = real.functions.C_FindObjects else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the real function with the program's own arguments, the session replaced by its real number.
        let rv = unsafe { find(session, objects, most, count) };
        if rv == CKR_OK {
            // SAFETY: after success the real module has written their number, and so many, there.
            unsafe { show(passage, objects, *count) };
        }
        rv
    })
}

/// Passes through with no fault and no lock: it may wait for ever, and `C_Finalize` is what ends it.
unsafe extern "C" fn C_WaitForSlotEvent(
    flags: CK_FLAGS,
    slot: CK_SLOT_ID_PTR,
    reserved: CK_VOID_PTR,
) -> CK_RV {
    let wait = Shim::get().and_then(|shim| shim.real().functions.C_WaitForSlotEvent);
    // SAFETY: the real function with the program's own arguments.
    wait.map_or(CKR_FUNCTION_NOT_SUPPORTED, |wait| unsafe { wait(flags, slot, reserved) })
}
