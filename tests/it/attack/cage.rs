//! The memory that our manifests give the program.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use uuid::Uuid;

use super::target::memory_kib;

pub const LIMIT_MIB: u64 = 512;
const LIMIT_BYTES: u64 = LIMIT_MIB * 1024 * 1024;

/// A memory cgroup of its own where one can be made, else a limit of the
/// address space.
pub enum Cage {
    Group { folder: PathBuf, version: u8 },
    AddressSpace,
}

impl Cage {
    pub fn make() -> Self {
        let name = format!("vcb-attack-{}", Uuid::now_v7().simple());
        let first = Path::new("/sys/fs/cgroup/memory").join(&name);
        if let Some(folder) = group(&first, "memory.limit_in_bytes") {
            // No swap instead; not every kernel counts it.
            let swap = folder.join("memory.memsw.limit_in_bytes");
            let _ = fs::write(swap, LIMIT_BYTES.to_string());
            return Self::Group { folder, version: 1 };
        }
        let root = Path::new("/sys/fs/cgroup");
        if root.join("cgroup.controllers").exists() {
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
            if let Some(folder) = group(&root.join(&name), "memory.max") {
                let _ = fs::write(folder.join("memory.swap.max"), "0");
                return Self::Group { folder, version: 2 };
            }
        }
        Self::AddressSpace
    }

    /// What a shell does before it becomes the program.
    pub fn entry(&self) -> String {
        match self {
            Self::Group { folder, .. } => {
                format!("echo $$ > '{}/cgroup.procs'", folder.display())
            }
            Self::AddressSpace => "true".to_owned(),
        }
    }

    /// Without a group the address space is limited once the program listens:
    /// what it reserves at its start is not used.
    pub fn close_around(&self, pid: u32) {
        if let Self::AddressSpace = self {
            let reserved = memory_kib(pid, "VmSize").expect("it runs") * 1024;
            let most = Some(reserved + LIMIT_BYTES);
            let pid = Pid::from_raw(i32::try_from(pid).unwrap());
            let limit = Rlimit {
                current: most,
                maximum: most,
            };
            prlimit(pid, Resource::As, limit).expect("limits can be lowered");
        }
    }

    pub fn name(&self) -> String {
        match self {
            Self::Group { version, .. } => {
                format!("a memory cgroup (v{version}) of {LIMIT_MIB} MiB")
            }
            Self::AddressSpace => format!(
                "RLIMIT_AS of {LIMIT_MIB} MiB more than at the start: no memory cgroup can be made here"
            ),
        }
    }
}

/// A new group with the limit; None: there is none to be had.
fn group(folder: &Path, limit: &str) -> Option<PathBuf> {
    fs::create_dir(folder).ok()?;
    let limited = folder.join(limit).exists()
        && fs::write(folder.join(limit), LIMIT_BYTES.to_string()).is_ok();
    if !limited {
        let _ = fs::remove_dir(folder);
        return None;
    }
    Some(folder.to_owned())
}

impl Drop for Cage {
    fn drop(&mut self) {
        if let Self::Group { folder, .. } = self {
            // Whoever was killed leaves a moment later.
            for _ in 0..100 {
                if fs::remove_dir(&*folder).is_ok() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            eprintln!("left behind: {}", folder.display());
        }
    }
}
