//! Writing a backup, beside a server or without one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use verbatim_core::CancellationToken;
use verbatim_core::ports::BlobKey;
use verbatim_core::time::Clock;
use verbatim_queue::sqlite::Snapshot;

use super::{FORMAT, MANIFEST, MANIFEST_DIGEST, Manifest, Member, Watched, blob_member, place};
use crate::progress::Progress;
use crate::system::SystemClock;

/// Audio vanishes when its job is done, which may be while other blobs are copied. Then the databases are copied afresh,
/// with what the jobs need by then; so many times at most.
const ROUNDS: usize = 8;
/// Bytes gathered before the disk is asked.
const GATHER: usize = 1024 * 1024;

/// Writes what lies in the data folder into `file`, which appears once it is whole and durable, readable by its owner
/// alone. A file of that name is replaced.
///
/// # Errors
/// When something cannot be read or written, or `stop` fires; what was at `file` is still there then.
pub fn back_up(
    data_dir: &Path,
    file: &Path,
    progress: &Progress,
    stop: &CancellationToken,
) -> anyhow::Result<Manifest> {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    ensure!(!file.is_dir(), "{} is a folder; name the file to write", file.display());
    let cannot_write = || format!("cannot write the backup into {}", folder.display());
    let unfinished = tempfile::Builder::new()
        .prefix(".verbatim-backup-")
        .tempfile_in(folder)
        .with_context(cannot_write)?;
    let created_at = jiff::Timestamp::from_millisecond(SystemClock.now().as_millis())?;
    let mut archive = Archive {
        builder: tar::Builder::new(BufWriter::with_capacity(GATHER, unfinished)),
        members: Vec::new(),
        modified: u64::try_from(created_at.as_second()).unwrap_or(0),
        expected: 0,
        done: 0,
        progress,
        stop,
    };

    let source = Source { data_dir, scratch: folder };
    let (snapshot, _scratch, missing) = source.copy_blobs(&mut archive)?;
    for (name, path) in snapshot.files() {
        let copy = File::open(path).with_context(|| format!("cannot read the copy of {name}"))?;
        archive.expected += copy.metadata()?.len();
        archive.add(name, copy)?;
    }
    let members = std::mem::take(&mut archive.members);
    let verbatim = env!("CARGO_PKG_VERSION").to_owned();
    let manifest =
        Manifest { format: FORMAT, verbatim, created_at, schemas: snapshot.schemas(), members, missing };
    archive.finish(&manifest, file).with_context(cannot_write)?;
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(cannot_write)?;
    Ok(manifest)
}

/// Where the data come from.
struct Source<'a> {
    data_dir: &'a Path,
    /// Where the databases are copied to first.
    scratch: &'a Path,
}

impl Source<'_> {
    /// Adds every blob that the jobs need. Returns the databases from which that was learnt last, with the folder in which
    /// they lie, and what could not be had: blobs that nobody can read any more, or jobs that end faster than we copy.
    ///
    /// Blobs never change once they are there, so that one that was copied need not be looked at again.
    fn copy_blobs(
        &self,
        archive: &mut Archive<'_>,
    ) -> anyhow::Result<(Snapshot, tempfile::TempDir, Vec<BlobKey>)> {
        let mut copied = BTreeSet::new();
        let mut missing = Vec::new();
        let mut round = 0;
        loop {
            round += 1;
            let scratch = tempfile::Builder::new().prefix(".verbatim-backup-").tempdir_in(self.scratch)?;
            let snapshot = Snapshot::take(self.data_dir, scratch.path())?;
            let mut wanted = snapshot.blobs()?;
            wanted.retain(|key| !copied.contains(key));
            let lengths = wanted.iter().filter_map(|key| std::fs::metadata(self.path(key)?).ok());
            archive.expected += lengths.map(|found| found.len()).sum::<u64>();
            let mut gone = Vec::new();
            for key in wanted {
                match self.open(&key)? {
                    Some(blob) => {
                        archive.add(&blob_member(&key), blob)?;
                        copied.insert(key);
                    }
                    None => gone.push(key),
                }
            }
            // What is still asked for by newer databases was not taken away in the meantime: it is not there.
            if gone == missing || round == ROUNDS {
                return Ok((snapshot, scratch, gone));
            }
            missing = gone;
        }
    }

    fn path(&self, key: &BlobKey) -> Option<PathBuf> {
        place(self.data_dir, &blob_member(key))
    }

    fn open(&self, key: &BlobKey) -> anyhow::Result<Option<File>> {
        let Some(path) = self.path(key) else { return Ok(None) };
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

/// A tar file that is being written.
struct Archive<'a> {
    builder: tar::Builder<BufWriter<NamedTempFile>>,
    members: Vec<Member>,
    /// Seconds since the epoch, for all members.
    modified: u64,
    expected: u64,
    done: u64,
    progress: &'a Progress,
    stop: &'a CancellationToken,
}

impl Archive<'_> {
    /// Adds a file as long as it is now.
    fn add(&mut self, name: &str, file: File) -> anyhow::Result<()> {
        let bytes = file.metadata()?.len();
        let mut header = self.header(bytes);
        let watched = Watched {
            inner: file.take(bytes),
            done: self.done,
            expected: self.expected,
            progress: self.progress,
            stop: self.stop,
        };
        let mut content = Hashed { inner: watched, hasher: Sha256::new() };
        self.builder
            .append_data(&mut header, name, &mut content)
            .with_context(|| format!("cannot copy {name}"))?;
        ensure!(content.inner.done == self.done + bytes, "{name} became shorter while it was copied");
        self.done += bytes;
        let sha256 = hex::encode(content.hasher.finalize());
        self.members.push(Member { name: name.to_owned(), bytes, sha256 });
        Ok(())
    }

    fn header(&self, bytes: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_mtime(self.modified);
        header
    }

    /// Adds the manifest, and puts the file into place once all of it is durable.
    fn finish(mut self, manifest: &Manifest, file: &Path) -> anyhow::Result<()> {
        let manifest = serde_json::to_vec(manifest)?;
        let digest = hex::encode(Sha256::digest(&manifest));
        for (name, content) in [(MANIFEST, manifest.as_slice()), (MANIFEST_DIGEST, digest.as_bytes())] {
            let mut header = self.header(content.len() as u64);
            self.builder.append_data(&mut header, name, content)?;
        }
        let mut unfinished =
            self.builder.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        unfinished.flush()?;
        unfinished.as_file().sync_all()?;
        unfinished.persist(file)?;
        Ok(())
    }
}

/// Content that is hashed while it is read.
struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
