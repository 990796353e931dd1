//! Which operating system user the server runs as.

use super::error::{EmbeddedPostgresError, IoContext, Result};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// An unprivileged user, for when this process is root: PostgreSQL refuses to run as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// The user to run a cluster in `cluster` as; `None` is this process's own user.
    pub(super) fn for_cluster(cluster: &Path) -> Result<Option<Account>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        // An ordinary user's cluster stays that user's when root has a look.
        match fs::metadata(cluster) {
            Ok(owner) if owner.uid() != 0 => Ok(Some(Account {
                uid: owner.uid(),
                gid: owner.gid(),
            })),
            _ => Account::unprivileged().map(Some),
        }
    }

    fn unprivileged() -> Result<Account> {
        let path = Path::new("/etc/passwd");
        let users = fs::read_to_string(path).when("read", path)?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| find_user(&users, name))
            .ok_or(EmbeddedPostgresError::NoUnprivilegedUser)
    }

    /// Makes this user the owner of a file or directory; a symbolic link is not followed.
    pub(super) fn give(self, path: &Path) -> Result<()> {
        lchown(path, Some(self.uid), Some(self.gid)).when("change the owner of", path)
    }

    pub(super) fn uid(self) -> u32 {
        self.uid
    }

    /// Has the command run as this user, without root's supplementary groups.
    pub(super) fn apply(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Whether this user gets into a directory, tried rather than computed: access lists and
    /// security modules have a say beside the mode.
    pub(super) fn can_enter(self, directory: &Path) -> Result<bool> {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", ":"])
            .current_dir(directory)
            .stdin(Stdio::null());
        self.apply(&mut command);
        match command.status() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
            Err(error) => Err(error).when("enter", directory),
        }
    }
}

fn find_user(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [user, _, uid, gid, ..] = fields.as_slice() else {
            return None;
        };
        let account = Account {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        };
        (*user == name && account.uid != 0).then_some(account)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:7::/:\npostgres:x:101:104:,,,:/:\n";
        let found = find_user(passwd, "postgres");
        assert_eq!(found, Some(Account { uid: 101, gid: 104 }));
        assert_eq!(find_user(passwd, "nobody"), None);
        assert_eq!(find_user(passwd, "root"), None);
    }
}
