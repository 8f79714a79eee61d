//! Mode and group of a socket file. They are set before any connect can succeed.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::{Identity, LOST_RACE, failed_to, in_use};
use crate::error::{Error, Result};
use crate::sys::descriptor::Descriptor;
use crate::sys::{self, file};

/// The permission bits of a mode.
const MODE_BITS: u32 = 0o7777;
/// Write permission for group and others; and the sticky bit, which keeps other users from replacing a file (unlink(2)).
const OTHERS_MAY_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// The mode and the group that the options ask for. Without them the umask decides the mode, and the directory the group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Access {
    mode: Option<u32>,
    group: Option<u32>,
}

impl Access {
    pub(crate) fn new(mode: Option<u32>, group: Option<u32>) -> Access {
        Access { mode, group }
    }

    pub(super) fn mode(self) -> Option<u32> {
        self.mode
    }

    pub(super) fn is_set(self) -> bool {
        self != Access::default()
    }

    /// Sets mode and group of the file at `path` where they differ. `born` is the file that the bind made.
    ///
    /// In a directory that others may write to, another file may lie at `path` by now. So the file is opened, compared with
    /// `born`, and changed through the descriptor.
    pub(super) fn apply(self, path: &Path, born: &Metadata) -> Result<()> {
        let group = self.group.filter(|gid| *gid != born.gid());
        let mode = self.mode.filter(|mode| *mode != born.mode() & MODE_BITS);
        if group.is_none() && mode.is_none() {
            return Ok(());
        }
        let file = file::open_path(path).map_err(failed_to("open the socket file", path))?;
        let found = file::with_file(&file, File::metadata).map_err(failed_to("look at the socket file", path))?;
        if Identity::of(&found) != Identity::of(born) {
            return Err(in_use(path, LOST_RACE));
        }
        if let Some(gid) = group {
            file::set_group(&file, gid).map_err(failed_to(&format!("give to group {gid} the socket file"), path))?;
        }
        if let Some(mode) = mode {
            set_mode(&file, path, mode)?;
        }
        Ok(())
    }
}

/// Sets the mode through the descriptor: by its path in /proc; where /proc is not mounted, with fchmodat2(2), which kernels
/// before 6.6 lack and which memory checkers and filters of system calls may not know. Where both fail, through the name, if
/// no other user can replace the file.
fn set_mode(file: &Descriptor, path: &Path, mode: u32) -> Result<()> {
    let Err(in_proc) = file::set_mode_in_proc(file, mode) else { return Ok(()) };
    let Err(new_call) = file::set_mode(file, mode) else { return Ok(()) };
    let action = format!("set mode {mode:04o} on the socket file {path:?}");
    let directory = path.parent().unwrap_or(Path::new("/"));
    if fs::metadata(directory).is_ok_and(|metadata| is_private(&metadata, sys::effective_uid())) {
        return fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| Error::from_os(action, error));
    }
    let action = format!(
        "{action} without /proc ({in_proc}) and without fchmodat2 ({new_call}), which is safe only in a directory that \
         others cannot write to"
    );
    Err(Error::PermissionDenied { action: action.into(), source: io::ErrorKind::PermissionDenied.into() })
}

/// Whether only this process's user and root can replace files in a directory.
fn is_private(directory: &Metadata, user: u32) -> bool {
    let owner_is_trusted = directory.uid() == user || directory.uid() == 0;
    owner_is_trusted && (directory.mode() & OTHERS_MAY_WRITE == 0 || directory.mode() & STICKY != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_which_others_can_replace_files_is_not_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let user = sys::effective_uid();
        for (mode, expected) in
            [(0o700, true), (0o755, true), (0o775, false), (0o757, false), (0o777, false), (0o1777, true)]
        {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).expect("own directory");
            let metadata = fs::metadata(dir.path()).expect("a directory");
            assert_eq!(is_private(&metadata, user), expected, "{mode:o}");
            // Somebody else's directory, unless it is root's.
            assert_eq!(is_private(&metadata, user + 1), expected && user == 0, "{mode:o}");
        }
    }
}
