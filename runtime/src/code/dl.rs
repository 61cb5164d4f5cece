//! The system's dynamic linker over an anonymous file.

use std::ffi::{CStr, CString, c_void};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::NonNull;

/// Asks for an executable file where the kernel distinguishes (Linux 6.3 and later).
const MFD_EXEC: libc::c_uint = 0x10;

pub(super) struct Library {
    handle: NonNull<c_void>,
    /// Kept open: the linker knows libraries by path, and this one's path holds the descriptor's number.
    _file: File,
}

// SAFETY: a handle may be used and closed on any thread.
unsafe impl Send for Library {}
// SAFETY: `dlsym` may be called from several threads at once.
unsafe impl Sync for Library {}

impl Library {
    pub(super) fn open(code: &[u8]) -> Result<Library, String> {
        let mut file = memory_file()?;
        file.write_all(code).map_err(|e| format!("writing to a memory file: {e}"))?;
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|e| e.to_string())?;
        // SAFETY: the path is a C string; running the library's code is what the caller asked for.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        match NonNull::new(handle) {
            Some(handle) => Ok(Library { handle, _file: file }),
            None => Err(last_error()),
        }
    }

    pub(super) fn symbol(&self, name: &CStr) -> Option<NonNull<u8>> {
        // SAFETY: the handle is open.
        NonNull::new(unsafe { libc::dlsym(self.handle.as_ptr(), name.as_ptr()) }).map(NonNull::cast)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nobody calls its functions any more. A failure leaves it loaded.
        unsafe { libc::dlclose(self.handle.as_ptr()) };
    }
}

fn memory_file() -> Result<File, String> {
    for flags in [libc::MFD_CLOEXEC | MFD_EXEC, libc::MFD_CLOEXEC] {
        // SAFETY: the name is a C string.
        let fd = unsafe { libc::memfd_create(c"kiln-code".as_ptr(), flags) };
        if fd >= 0 {
            // SAFETY: the descriptor is new and ours.
            return Ok(unsafe { File::from_raw_fd(fd) });
        }
    }
    Err(format!("memfd_create: {}", std::io::Error::last_os_error()))
}

/// What the linker has to say of its last failure on this thread.
pub(crate) fn last_error() -> String {
    // SAFETY: the text belongs to this thread until its next call into the linker.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "dlopen failed".to_owned();
    }
    // SAFETY: not null, so a C string.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
