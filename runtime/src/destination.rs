//! Where an output goes: a file gets its name when it is whole, a device or a pipe takes what comes.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An output that is being written. Dropped before [`Destination::commit`] it leaves what was there.
///
/// Where the file system has files without names, a program that is ended by a signal leaves nothing either.
#[derive(Debug)]
pub struct Destination {
    target: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    /// A file without a name, which is gone when nobody has it open.
    Unnamed(File),
    /// A hidden file beside the target.
    Hidden(PathBuf),
    /// Nothing is left to do, as with a device, which no file may replace.
    Done,
}

impl Destination {
    /// Opens what is written for `path`. A link is followed, so that it stays one, also where it leads to nothing yet.
    pub fn create(path: &Path) -> io::Result<(File, Destination)> {
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(found) if !found.is_file() => {
                let file = OpenOptions::new().write(true).open(path)?;
                return Ok((file, Destination { target: path.to_owned(), state: State::Done }));
            }
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let target = followed(path)?;
        if target.file_name().is_none() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if let Some(file) = unnamed(&target) {
            let state = State::Unnamed(file.try_clone()?);
            return Ok((file, Destination { target, state }));
        }
        let (file, hidden) = hidden(&target, |name| File::create_new(name))?;
        Ok((file, Destination { target, state: State::Hidden(hidden) }))
    }

    /// Gives the file, all of which must have been written, its name.
    pub fn commit(mut self) -> io::Result<()> {
        if let State::Unnamed(file) = &self.state {
            self.state = match link(file, &self.target) {
                Ok(()) => State::Done,
                // Only a file that has a name can take the place of another.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    State::Hidden(hidden(&self.target, |name| link(file, name))?.1)
                }
                Err(e) => return Err(e),
            };
        }
        if let State::Hidden(hidden) = &self.state {
            std::fs::rename(hidden, &self.target)?;
        }
        self.state = State::Done;
        Ok(())
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let State::Hidden(hidden) = &self.state {
            // Nothing better can be done about a file that does not go away.
            let _ = std::fs::remove_file(hidden);
        }
    }
}

/// Writes one output: all of it, or, if `write` fails, nothing over what stood there.
pub fn write_output<E: From<io::Error>>(path: &Path, write: impl FnOnce(&mut File) -> Result<(), E>) -> Result<(), E> {
    let (mut file, destination) = Destination::create(path)?;
    write(&mut file)?;
    Ok(destination.commit()?)
}

/// Whether two paths lead to one file, or would when both are written. Devices and pipes are no files.
pub fn same_file(a: &Path, b: &Path) -> bool {
    identity(a).is_some_and(|a| identity(b) == Some(a))
}

#[derive(PartialEq)]
enum Identity {
    /// Device and number of a file, which all its names share.
    File(u64, u64),
    /// A file that is not there, in a folder that is.
    Absent(PathBuf),
}

fn identity(path: &Path) -> Option<Identity> {
    match std::fs::metadata(path) {
        Ok(found) => found.is_file().then(|| Identity::File(found.dev(), found.ino())),
        Err(_) => {
            let target = followed(path).ok()?;
            let name = target.file_name()?;
            Some(Identity::Absent(folder(&target).canonicalize().ok()?.join(name)))
        }
    }
}

/// The path behind links in its last part, whether something is there or not.
fn followed(path: &Path) -> io::Result<PathBuf> {
    /// As many as the system follows.
    const MAX_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match std::fs::read_link(&path) {
            Ok(to) => path = folder(&path).join(to),
            // No link, or nothing.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// The folder that a file is in.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The first hidden name beside `target` under which `make` finds nothing, and what it makes.
fn hidden<T>(target: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    for attempt in 0..1000 {
        let name = target.with_file_name(format!(".kiln-{}-{attempt}", std::process::id()));
        match make(&name) {
            Ok(made) => return Ok((made, name)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// A file without a name in the folder of `target`, if the file system has such and it can get a name later.
fn unnamed(target: &Path) -> Option<File> {
    let file = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(folder(target)).ok()?;
    Path::new(&descriptor(&file)).exists().then_some(file)
}

/// The name under which the system shows an open file to the process that has it.
fn descriptor(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Gives an open file a name that must be free.
fn link(file: &File, name: &Path) -> io::Result<()> {
    let (from, to) = (CString::new(descriptor(file))?, CString::new(name.as_os_str().as_bytes())?);
    // SAFETY: both are strings that live until the call is over, and it only reads them.
    let done =
        unsafe { libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::{FileTypeExt, symlink};

    fn temporary(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("kiln-destination-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_link_stays_a_link_and_its_target_changes() {
        let folder = temporary("link");
        std::fs::write(folder.join("target"), "old").unwrap();
        symlink("target", folder.join("link")).unwrap();
        write_output(&folder.join("link"), |f| f.write_all(b"new")).unwrap();
        assert!(std::fs::symlink_metadata(folder.join("link")).unwrap().is_symlink());
        assert_eq!(std::fs::read(folder.join("target")).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// A named pipe stands for every device: a test that breaks must not take the machine's /dev/null away.
    #[test]
    fn nothing_is_renamed_over_a_device() {
        let folder = temporary("pipe");
        let path = folder.join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let reader = std::thread::spawn({
            let path = path.clone();
            move || std::fs::read(path).unwrap()
        });
        write_output(&path, |f| f.write_all(b"bytes")).unwrap();
        assert_eq!(reader.join().unwrap(), b"bytes");
        assert!(std::fs::metadata(&path).unwrap().file_type().is_fifo());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let folder = temporary("failure");
        let path = folder.join("out");
        std::fs::write(&path, "old").unwrap();
        let full = |_: &mut File| Err(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(write_output(&path, full).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_link_to_nothing_stays_a_link_and_its_target_appears() {
        let folder = temporary("dangling");
        std::fs::create_dir(folder.join("in")).unwrap();
        symlink("in/second", folder.join("first")).unwrap();
        symlink("../target", folder.join("in/second")).unwrap();
        write_output(&folder.join("first"), |f| f.write_all(b"new")).unwrap();
        assert!(folder.join("first").is_symlink() && folder.join("in/second").is_symlink());
        assert_eq!(std::fs::read(folder.join("target")).unwrap(), b"new");
        symlink("round", folder.join("round")).unwrap();
        let loops = write_output(&folder.join("round"), |f| f.write_all(b"new")).unwrap_err();
        assert_eq!(loops.raw_os_error(), Some(libc::ELOOP));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_being_written_has_no_name_where_the_file_system_has_such_files() {
        let folder = temporary("unnamed");
        let path = folder.join("out");
        let named = unnamed(&path).is_none();
        for text in ["first", "second"] {
            let before = std::fs::read_dir(&folder).unwrap().count();
            write_output(&path, |f| {
                f.write_all(text.as_bytes())?;
                assert_eq!(std::fs::read_dir(&folder)?.count(), before + usize::from(named));
                io::Result::Ok(())
            })
            .unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), text.as_bytes());
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// The way that is taken on file systems where every file has a name.
    #[test]
    fn a_hidden_file_takes_the_place_of_what_was_there() {
        let folder = temporary("hidden");
        let path = folder.join("out");
        std::fs::write(&path, "old").unwrap();
        let state = |text: &str| {
            let (mut file, name) = hidden(&path, |name| File::create_new(name)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            Destination { target: path.clone(), state: State::Hidden(name) }
        };
        drop(state("half"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        state("new").commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn one_file_is_known_by_all_its_names() {
        let folder = temporary("same");
        let at = |name: &str| folder.join(name);
        std::fs::write(at("file"), "").unwrap();
        std::fs::write(at("other"), "").unwrap();
        std::fs::hard_link(at("file"), at("hard")).unwrap();
        symlink("file", at("soft")).unwrap();
        symlink("nothing", at("dangling")).unwrap();
        for name in ["hard", "soft", "./file"] {
            assert!(same_file(&at("file"), &at(name)), "{name}");
        }
        assert!(same_file(&at("dangling"), &at("nothing")) && same_file(&at("new"), &at("./new")));
        assert!(!same_file(&at("file"), &at("other")) && !same_file(&at("file"), &at("new")));
        assert!(!same_file(Path::new("/dev/null"), Path::new("/dev/null")) && !same_file(&folder, &folder));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
