//! Backups of the embedded store: its databases and the blobs that they refer to, in one tar file.
//!
//! Members lie under the names that they have in the data folder. The last two are the manifest, with the SHA-256 of every
//! other member, and the SHA-256 of the manifest: whatever is damaged or cut off is noticed.

mod read;
mod write;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use verbatim_core::CancellationToken;
use verbatim_core::ports::BlobKey;
use verbatim_queue::sqlite::{DATABASE, KEYS_DATABASE, Schemas};

use crate::progress::Progress;

pub use read::restore;
pub use write::back_up;

/// The version of the format, raised when an earlier Verbatim could not read it any more.
const FORMAT: u32 = 1;
/// The name of the manifest.
const MANIFEST: &str = "manifest.json";
/// The name of the manifest's SHA-256, in hexadecimal digits.
const MANIFEST_DIGEST: &str = "manifest.json.sha256";
/// The folder of the blobs in a data folder.
const BLOBS: &str = "blobs";

/// What a backup holds and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// Version of the program that wrote it.
    pub verbatim: String,
    /// When it was begun.
    pub created_at: jiff::Timestamp,
    /// Versions of the databases' schemas.
    pub schemas: Schemas,
    /// Every member but the manifest and its digest.
    pub members: Vec<Member>,
    /// Blobs that the jobs need and that were gone when they were to be read.
    pub missing: Vec<BlobKey>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name in the data folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// The length of all members.
    pub fn bytes(&self) -> u64 {
        self.members.iter().map(|member| member.bytes).sum()
    }
}

/// Content on its way: counted, and stopped when it has to be.
struct Watched<'a, R> {
    inner: R,
    done: u64,
    expected: u64,
    progress: &'a Progress,
    stop: &'a CancellationToken,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("interrupted"));
        }
        let read = self.inner.read(buffer)?;
        self.done += read as u64;
        self.progress.set(self.done, self.expected);
        Ok(read)
    }
}

/// The name of a blob as a member.
fn blob_member(key: &BlobKey) -> String {
    format!("{BLOBS}/{key}")
}

/// Where a member lies under a data folder; `None` for a name that no backup has, such as one that leads out of it.
fn place(folder: &Path, name: &str) -> Option<PathBuf> {
    let blob = |name: &str| {
        let key = name.strip_prefix(BLOBS)?.strip_prefix('/')?;
        BlobKey::parse(key).ok()
    };
    (name == DATABASE || name == KEYS_DATABASE || blob(name).is_some()).then(|| folder.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_member_leads_out_of_the_folder() {
        let folder = Path::new("/data");
        for bad in [
            "/etc/passwd",
            "../jobs.db",
            "blobs/../jobs.db",
            "blobs/audio/../../x",
            "lock",
            "blobs",
            "blobs/",
        ] {
            assert_eq!(place(folder, bad), None, "{bad}");
        }
        assert_eq!(place(folder, "jobs.db"), Some("/data/jobs.db".into()));
        let key = BlobKey::parse("results/work_1/1-a").unwrap();
        assert_eq!(place(folder, &blob_member(&key)), Some("/data/blobs/results/work_1/1-a".into()));
    }
}
