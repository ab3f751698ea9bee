//! Reading a backup back into an empty data folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};
use verbatim_core::CancellationToken;
use verbatim_queue::sqlite::{
    DATABASE, FolderLock, KEYS_DATABASE, LOCK, RESTORING, Schemas, make_data_folder,
};

use super::{BLOBS, FORMAT, MANIFEST, MANIFEST_DIGEST, Manifest, Member, Watched, place};
use crate::progress::Progress;

/// Bytes read at a time.
const PIECE: usize = 256 * 1024;
/// The longest manifest that is read: more than a million members.
const MAX_MANIFEST: u64 = 512 * 1024 * 1024;
/// What may lie in a folder that passes for empty: our own lock, and what a new file system brings.
const NOTHING: [&str; 2] = [LOCK, "lost+found"];

/// Puts what `file` holds into the data folder, which must be empty or not there yet. Nothing is put in place before all of
/// it has been read and found undamaged.
///
/// # Errors
/// When the folder is not empty or a server has it, the file is damaged or of a newer version, or `stop` fires.
pub fn restore(
    file: &Path,
    data_dir: &Path,
    progress: &Progress,
    stop: &CancellationToken,
) -> anyhow::Result<Manifest> {
    let source = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    make_data_folder(data_dir)?;
    check_empty(data_dir)?;
    let _lock = FolderLock::take(data_dir)?;
    // Once more: a server may have come and gone.
    check_empty(data_dir)?;

    let mut staging = Staging::begin(data_dir)?;
    let length = source.metadata()?.len();
    let watched = Watched { inner: source, done: 0, expected: length, progress, stop };
    let mut unpacking =
        Unpacking { folder: &staging.folder, found: BTreeMap::new(), folders: BTreeSet::new() };
    let manifest = unpacking
        .unpack(tar::Archive::new(BufReader::with_capacity(PIECE, watched)))
        .with_context(|| format!("nothing was restored from {}", file.display()))?;
    staging.put_in_place(data_dir)?;
    Ok(manifest)
}

/// Whether the folder is free to be restored into.
fn check_empty(data_dir: &Path) -> anyhow::Result<()> {
    let cannot_look = || format!("cannot look into {}", data_dir.display());
    let mut held = false;
    let mut other = None;
    for entry in std::fs::read_dir(data_dir).with_context(cannot_look)? {
        let name = entry.with_context(cannot_look)?.file_name();
        held |= name == LOCK;
        if !NOTHING.iter().any(|nothing| name == *nothing) {
            other = Some(name);
        }
    }
    let Some(name) = other else { return Ok(()) };
    if held {
        drop(FolderLock::take(data_dir)?);
    }
    bail!(
        "{} is not empty ({} lies in it): restore into a new folder (--data-dir) and start the server on that one, or \
         move this one away",
        data_dir.display(),
        name.display()
    )
}

/// What was unpacked but is not in place yet: in the data folder itself, so that it is on the same disk whatever is mounted
/// there. A server does not start while it is there.
struct Staging {
    folder: PathBuf,
    /// Whether it goes away with this.
    temporary: bool,
}

impl Staging {
    fn begin(data_dir: &Path) -> anyhow::Result<Self> {
        let folder = data_dir.join(RESTORING);
        make_data_folder(&folder)?;
        Ok(Self { folder, temporary: true })
    }

    /// Moves everything up, the jobs last. When that breaks off, the folder stays as a sign that it did.
    fn put_in_place(&mut self, data_dir: &Path) -> anyhow::Result<()> {
        let context =
            || format!("the restore into {} broke off: empty the folder and try again", data_dir.display());
        sync(&self.folder).and_then(|()| sync(data_dir)).with_context(context)?;
        self.temporary = false;
        for name in [BLOBS, KEYS_DATABASE, DATABASE] {
            match std::fs::rename(self.folder.join(name), data_dir.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && name != DATABASE => {}
                moved => moved.with_context(context)?,
            }
        }
        // The names must be durable in their new place before the sign is taken away.
        sync(data_dir).with_context(context)?;
        std::fs::remove_dir(&self.folder).and_then(|()| sync(data_dir)).with_context(context)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.folder)
        {
            eprintln!("warning: {} could not be removed: {error}", self.folder.display());
        }
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Members on their way into a folder.
struct Unpacking<'a> {
    folder: &'a Path,
    /// Name to length and digest.
    found: BTreeMap<String, (u64, String)>,
    /// Folders whose names are to be made durable.
    folders: BTreeSet<PathBuf>,
}

impl Unpacking<'_> {
    /// Unpacks everything, makes it durable and compares it with the manifest.
    fn unpack<R: Read>(&mut self, mut archive: tar::Archive<R>) -> anyhow::Result<Manifest> {
        const DAMAGED: &str = "the file is damaged or cut short, or no backup";
        let (mut manifest, mut digest) = (None, None);
        for entry in archive.entries().context(DAMAGED)? {
            let mut entry = entry.context(DAMAGED)?;
            let name = String::from_utf8(entry.path_bytes().into_owned()).context(DAMAGED)?;
            ensure!(entry.header().entry_type() == tar::EntryType::Regular, "{DAMAGED}: {name} is no file");
            match name.as_str() {
                MANIFEST => manifest = Some(whole(&mut entry, MAX_MANIFEST).context(DAMAGED)?),
                MANIFEST_DIGEST => digest = Some(whole(&mut entry, 64).context(DAMAGED)?),
                _ => self.take(name, &mut entry)?,
            }
        }
        let manifest = manifest.context(DAMAGED)?;
        let expected = hex::encode(Sha256::digest(&manifest));
        ensure!(
            digest.is_some_and(|digest| digest == expected.as_bytes()),
            "{DAMAGED}: the manifest is not whole"
        );
        let manifest: Manifest = serde_json::from_slice(&manifest).context(DAMAGED)?;
        self.check(&manifest)?;
        for folder in &self.folders {
            sync(folder).with_context(|| format!("cannot write {}", folder.display()))?;
        }
        Ok(manifest)
    }

    fn take(&mut self, name: String, content: &mut impl Read) -> anyhow::Result<()> {
        let target = place(self.folder, &name).with_context(|| format!("there is no place for {name}"))?;
        let cannot_write = || format!("cannot write {}", target.display());
        let ancestors = target.ancestors().skip(1).take_while(|folder| folder.starts_with(self.folder));
        self.folders.extend(ancestors.map(Path::to_owned));
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).with_context(cannot_write)?;
        }
        // A name that comes twice is refused here.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&target)
            .with_context(cannot_write)?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        let mut piece = vec![0; PIECE];
        loop {
            let read = content.read(&mut piece).with_context(|| format!("{name} is damaged or cut short"))?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
            bytes += read as u64;
            file.write_all(&piece[..read]).with_context(cannot_write)?;
        }
        file.sync_all().with_context(cannot_write)?;
        self.found.insert(name, (bytes, hex::encode(hasher.finalize())));
        Ok(())
    }

    /// Whether all is there, nothing else is, and this version can use it.
    fn check(&mut self, manifest: &Manifest) -> anyhow::Result<()> {
        ensure!(
            manifest.format <= FORMAT && manifest.schemas.are_known(),
            "it was written by a newer version of Verbatim ({}): upgrade this one ({}). Its databases have the versions \
             {:?}, this one knows {:?}",
            manifest.verbatim,
            env!("CARGO_PKG_VERSION"),
            manifest.schemas,
            Schemas::newest(),
        );
        for Member { name, bytes, sha256 } in &manifest.members {
            let found = self.found.remove(name).with_context(|| format!("{name} is missing"))?;
            ensure!(
                found == (*bytes, sha256.clone()),
                "{name} is damaged: its SHA-256 is not that of the manifest"
            );
        }
        ensure!(self.found.is_empty(), "there are files that the manifest does not know");
        ensure!(manifest.members.iter().any(|member| member.name == DATABASE), "it holds no {DATABASE}");
        Ok(())
    }
}

/// The content of a small member.
fn whole(content: &mut impl Read, at_most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content.take(at_most).read_to_end(&mut bytes)?;
    Ok(bytes)
}
