//! `C_Encrypt`, `C_Decrypt` and `C_GetAttributeValue` with a buffer of known length: one call each, where the crate
//! [`cryptoki`] makes two, the first to ask for the length (PKCS#11 v3.2, 5.2); and `C_CloseSession` of a session that is
//! still there afterwards, to be tried again when it fails.
//!
//! Place on the map: the proxy's only unsafe code, below `hsm::pkcs11::session`. Everything else of PKCS#11 goes through
//! `cryptoki`, whose sessions, handles, mechanisms and errors these functions take and give. The lengths are known here
//! because AES-GCM makes as many bytes as it is given and a tag. On a network HSM each call saved can be a round
//! trip; SoftHSM2 opens and locks the token's file in each `C_GetAttributeValue`.

use cryptoki::context::Function;
use cryptoki::error::{Error, Result, Rv, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{AttributeType, ObjectHandle};
use cryptoki::session::Session;
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BYTE_PTR, CK_FUNCTION_LIST, CK_MECHANISM, CK_MECHANISM_PTR, CK_OBJECT_HANDLE, CK_RV,
    CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR,
};
use std::fmt;
use std::path::Path;
use zeroize::Zeroizing;

/// What a library may want more room for than it has asked for, and no more: an answer that is longer is a defect of
/// the library, not a reason to set memory aside.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

type Begin = unsafe extern "C" fn(CK_SESSION_HANDLE, CK_MECHANISM_PTR, CK_OBJECT_HANDLE) -> CK_RV;
type Finish =
    unsafe extern "C" fn(CK_SESSION_HANDLE, CK_BYTE_PTR, CK_ULONG, CK_BYTE_PTR, CK_ULONG_PTR) -> CK_RV;

/// The functions of a loaded PKCS#11 library.
pub struct OneCall {
    list: CK_FUNCTION_LIST,
    /// The functions are code of this library.
    _library: cryptoki_sys::Pkcs11,
}

impl fmt::Debug for OneCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.list.version;
        write!(f, "OneCall(PKCS#11 {}.{})", version.major, version.minor)
    }
}

impl OneCall {
    /// The functions of the library at `path`, as `cryptoki::context::Pkcs11::new` loads it; when that has loaded it
    /// before, the system gives the same library again, with its state.
    ///
    /// # Errors
    /// `LibraryLoading` when the system cannot load it, `MissingSymbol` or `NullFunctionPointer` when it is no PKCS#11
    /// library, and what `C_GetFunctionList` answers.
    pub fn load(path: &Path) -> Result<Self> {
        // SAFETY: loading runs the library's initialisers, which has to be trusted with any PKCS#11 library, as `cryptoki`
        // does.
        #[expect(unsafe_code, reason = "a C library is loaded")]
        let library = unsafe { cryptoki_sys::Pkcs11::new(path) }.map_err(Error::LibraryLoading)?;
        if library.C_GetFunctionList.is_err() {
            return Err(Error::MissingSymbol("C_GetFunctionList"));
        }
        let mut list = std::ptr::null_mut();
        // SAFETY: the function is there, and writes one pointer to where it may.
        #[expect(unsafe_code, reason = "a C function is called")]
        let rv = unsafe { library.C_GetFunctionList(&raw mut list) };
        Rv::from(rv).into_result(Function::GetFunctionList)?;
        if list.is_null() {
            return Err(Error::NullFunctionPointer);
        }
        // SAFETY: the library's own list, which lives as long as the library (PKCS#11 v3.2, 5.4.4).
        #[expect(unsafe_code, reason = "a C structure is read")]
        let list = unsafe { *list };
        Ok(Self { list, _library: library })
    }

    /// `C_EncryptInit` and `C_Encrypt`. `room_bytes`: how long the output becomes.
    ///
    /// # Errors
    /// What the library answers; `BufferTooSmall` also when it wants more than 64 KiB, or says that it made more than there
    /// was room for.
    pub fn encrypt(
        &self,
        session: &Session,
        mechanism: &Mechanism<'_>,
        key: ObjectHandle,
        plaintext: &[u8],
        room_bytes: usize,
    ) -> Result<Vec<u8>> {
        // Lives until the end of the operation, for libraries that look at it again.
        let mut mechanism = CK_MECHANISM::from(mechanism);
        begin(self.list.C_EncryptInit, Function::EncryptInit, session, &mut mechanism, key)?;
        let output = finish(self.list.C_Encrypt, Function::Encrypt, session.handle(), plaintext, room_bytes);
        output.map(|mut output| std::mem::take(&mut *output))
    }

    /// `C_DecryptInit` and `C_Decrypt`. The output is at most as long as the input; what the library left in the buffer
    /// when it refused is wiped.
    ///
    /// # Errors
    /// What the library answers.
    pub fn decrypt(
        &self,
        session: &Session,
        mechanism: &Mechanism<'_>,
        key: ObjectHandle,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let mut mechanism = CK_MECHANISM::from(mechanism);
        begin(self.list.C_DecryptInit, Function::DecryptInit, session, &mut mechanism, key)?;
        finish(self.list.C_Decrypt, Function::Decrypt, session.handle(), ciphertext, ciphertext.len())
    }

    /// Whether an attribute of the object has this value (`C_GetAttributeValue`). One that the object has not, or does
    /// not show, has not.
    ///
    /// # Errors
    /// What else the library answers.
    pub fn attribute_is(
        &self,
        session: &Session,
        object: ObjectHandle,
        attribute: AttributeType,
        value: &[u8],
    ) -> Result<bool> {
        let get = self.list.C_GetAttributeValue.ok_or(Error::NullFunctionPointer)?;
        let mut found = vec![0_u8; value.len()];
        let mut template = CK_ATTRIBUTE {
            type_: attribute.into(),
            pValue: found.as_mut_ptr().cast(),
            ulValueLen: found.len().try_into()?,
        };
        // SAFETY: one attribute, with a buffer of the length it names; the library writes no more than that (5.7.5).
        #[expect(unsafe_code, reason = "a C function is called")]
        let rv = Rv::from(unsafe { get(session.handle(), object.handle(), &raw mut template, 1) });
        match rv {
            // A value of another length is another value.
            Rv::Error(
                RvError::BufferTooSmall | RvError::AttributeSensitive | RvError::AttributeTypeInvalid,
            ) => Ok(false),
            rv => {
                rv.into_result(Function::GetAttributeValue)?;
                let len = usize::try_from(template.ulValueLen);
                Ok(len == Ok(value.len()) && found == value)
            }
        }
    }

    /// `C_CloseSession`.
    ///
    /// # Errors
    /// What the library answers; the session may then be open as before.
    pub fn close(&self, session: &Session) -> Result<()> {
        let close = self.list.C_CloseSession.ok_or(Error::NullFunctionPointer)?;
        // SAFETY: it takes a number, and one that names no session is an error.
        #[expect(unsafe_code, reason = "a C function is called")]
        let rv = unsafe { close(session.handle()) };
        Rv::from(rv).into_result(Function::CloseSession)
    }
}

/// `C_EncryptInit` or `C_DecryptInit`.
fn begin(
    function: Option<Begin>,
    name: Function,
    session: &Session,
    mechanism: &mut CK_MECHANISM,
    key: ObjectHandle,
) -> Result<()> {
    let begin = function.ok_or(Error::NullFunctionPointer)?;
    // SAFETY: the callers keep the mechanism, and the borrow of what it points to, until the operation has ended, for a
    // library may write the IV as late as in C_Encrypt; the IV was borrowed mutably to make the mechanism. A wrong number of
    // session or key is an error.
    #[expect(unsafe_code, reason = "a C function is called")]
    let rv = unsafe { begin(session.handle(), mechanism, key.handle()) };
    Rv::from(rv).into_result(name)
}

/// `C_Encrypt` or `C_Decrypt`: once, if the library wants no more room than is known to be enough.
fn finish(
    function: Option<Finish>,
    name: Function,
    session: CK_SESSION_HANDLE,
    input: &[u8],
    room_bytes: usize,
) -> Result<Zeroizing<Vec<u8>>> {
    let finish = function.ok_or(Error::NullFunctionPointer)?;
    let mut output = Zeroizing::new(vec![0_u8; room_bytes]);
    loop {
        let mut output_bytes = CK_ULONG::try_from(output.len())?;
        // SAFETY: the input is only read, although the type of C says otherwise; the output has the length that is named, and
        // the library writes no more than that (5.2).
        #[expect(unsafe_code, reason = "a C function is called")]
        let rv = unsafe {
            finish(
                session,
                input.as_ptr().cast_mut(),
                input.len().try_into()?,
                output.as_mut_ptr(),
                &raw mut output_bytes,
            )
        };
        let output_bytes = usize::try_from(output_bytes)?;
        match Rv::from(rv) {
            // The operation goes on, and the library has told how much room it wants (5.2).
            Rv::Error(RvError::BufferTooSmall)
                if output_bytes > output.len() && output_bytes <= OUTPUT_BYTES_MAX =>
            {
                output = Zeroizing::new(vec![0; output_bytes]);
            }
            rv => {
                rv.into_result(name)?;
                // It says that all is well and that there was more: what it wrote is not the whole.
                if output_bytes > output.len() {
                    return Err(Error::Pkcs11(RvError::BufferTooSmall, name));
                }
                output.truncate(output_bytes);
                return Ok(output);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const OK: CK_RV = cryptoki_sys::CKR_OK;
    const TOO_SMALL: CK_RV = cryptoki_sys::CKR_BUFFER_TOO_SMALL;

    /// Makes the bytes 1, 2, 3, and says that they are as many as the number of the session.
    #[expect(unsafe_code, reason = "a C library's side of the call")]
    unsafe extern "C" fn makes_three(
        session: CK_SESSION_HANDLE,
        _: CK_BYTE_PTR,
        _: CK_ULONG,
        output: CK_BYTE_PTR,
        len: CK_ULONG_PTR,
    ) -> CK_RV {
        // SAFETY: `finish` gives a buffer of the length that it names.
        unsafe {
            let has_room = *len >= 3;
            *len = session;
            if !has_room {
                return TOO_SMALL;
            }
            [1, 2, 3].as_ptr().copy_to_nonoverlapping(output, 3);
        }
        OK
    }

    #[expect(unsafe_code, reason = "the type of a C function")]
    unsafe extern "C" fn is_never_content(
        session: CK_SESSION_HANDLE,
        _: CK_BYTE_PTR,
        _: CK_ULONG,
        _: CK_BYTE_PTR,
        len: CK_ULONG_PTR,
    ) -> CK_RV {
        // SAFETY: the test's number of a session is the address of a counter of its own, which outlives the call.
        #[expect(unsafe_code, reason = "a C library's side of the call")]
        unsafe {
            let calls = &*std::ptr::with_exposed_provenance::<AtomicUsize>(session.try_into().unwrap());
            calls.fetch_add(1, Ordering::Relaxed);
            *len *= 2;
        }
        TOO_SMALL
    }

    fn made(says_bytes: CK_SESSION_HANDLE, room_bytes: usize) -> Result<Vec<u8>> {
        let output = finish(Some(makes_three), Function::Encrypt, says_bytes, &[0], room_bytes);
        output.map(|output| output.to_vec())
    }

    #[test]
    fn room_that_is_enough_is_asked_for_once_and_too_little_is_mended() {
        for room_bytes in [0, 1, 2, 3, 4, 100] {
            assert_eq!(made(3, room_bytes).unwrap(), [1, 2, 3], "{room_bytes}");
        }
    }

    #[test]
    fn an_answer_that_cannot_be_whole_is_none() {
        for room_bytes in [4, 2] {
            let outcome = made(1_000_000, room_bytes);
            assert!(matches!(outcome, Err(Error::Pkcs11(RvError::BufferTooSmall, Function::Encrypt))));
        }
    }

    #[test]
    fn a_library_that_is_never_content_is_given_up() {
        let calls = AtomicUsize::new(0);
        let session = (&raw const calls).expose_provenance().try_into().unwrap();
        let outcome = finish(Some(is_never_content), Function::Decrypt, session, &[0], 1);
        assert!(matches!(outcome, Err(Error::Pkcs11(RvError::BufferTooSmall, Function::Decrypt))));
        assert_eq!(calls.into_inner(), 17, "twice the room each time, up to 64 KiB");
    }

    #[test]
    fn a_function_that_the_library_does_not_have_is_an_error() {
        assert!(matches!(finish(None, Function::Encrypt, 1, &[0], 1), Err(Error::NullFunctionPointer)));
    }

    #[test]
    fn what_is_no_pkcs11_library_is_said() {
        assert!(matches!(OneCall::load(Path::new("/nowhere.so")), Err(Error::LibraryLoading(_))));
        assert!(matches!(
            OneCall::load(Path::new("libc.so.6")),
            Err(Error::MissingSymbol("C_GetFunctionList"))
        ));
    }
}
