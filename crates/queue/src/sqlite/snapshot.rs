//! Consistent copies of the databases of a data folder, taken while a server works on them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use verbatim_core::ports::BlobKey;
use verbatim_core::{ErrorKind, PortError};

use super::error::StoreResult;
use super::job::{parsed, unsigned};
use super::{DATABASE, KEYS_DATABASE, books, directory, owner, schema};

/// The versions of the databases' schemas: how many migrations there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schemas {
    /// Of the jobs.
    pub jobs: u64,
    /// Of the keys; `None` where there never were any.
    pub keys: Option<u64>,
}

impl Schemas {
    /// What this version writes.
    pub fn newest() -> Self {
        Self { jobs: schema::MIGRATIONS.len() as u64, keys: Some(directory::MIGRATIONS.len() as u64) }
    }

    /// Whether this version can read them.
    pub fn are_known(self) -> bool {
        let newest = Self::newest();
        self.jobs <= newest.jobs && self.keys <= newest.keys
    }
}

/// Copies of the databases. They belong to nobody: no server writes them.
#[derive(Debug)]
pub struct Snapshot {
    jobs: PathBuf,
    keys: Option<PathBuf>,
    schemas: Schemas,
}

impl Snapshot {
    /// Copies the databases in the data folder `from` into the empty folder `into`. Readers and writers of the databases
    /// go on meanwhile. Blocks.
    ///
    /// # Errors
    /// `NotFound` when no server has ever run there; `Conflict` when a newer version wrote them; `OutOfSpace`,
    /// `Unavailable` and `Internal` as the disk and SQLite say.
    pub fn take(from: &Path, into: &Path) -> Result<Self, PortError> {
        let source = books::database_in(from)?;
        // The keys first: a job of a key that is missing can still be worked on.
        let keys = from.join(KEYS_DATABASE);
        let keys = if keys.exists() { Some(copy(&keys, into.join(KEYS_DATABASE))?) } else { None };
        let (jobs, jobs_schema) = copy(&source, into.join(DATABASE))?;
        let schemas = Schemas { jobs: jobs_schema, keys: keys.as_ref().map(|(_, version)| *version) };
        if !schemas.are_known() {
            return Err(schema::too_new(&source));
        }
        Ok(Self { jobs, keys: keys.map(|(path, _)| path), schemas })
    }

    /// The copies: their names in a data folder, and where they lie now.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let keys = self.keys.as_deref().map(|path| (KEYS_DATABASE, path));
        std::iter::once((DATABASE, self.jobs.as_path())).chain(keys)
    }

    /// Their schemas.
    pub fn schemas(&self) -> Schemas {
        self.schemas
    }

    /// Every blob that the jobs need, in order of key: audio still to be worked on, and results; and the marker by which the
    /// store knows them.
    ///
    /// # Errors
    /// `Unavailable` and `Internal`, as SQLite says.
    pub fn blobs(&self) -> Result<Vec<BlobKey>, PortError> {
        let read = || -> StoreResult<Vec<BlobKey>> {
            let conn = schema::open_reader(&self.jobs)?;
            let mut statement = conn.prepare(
                "SELECT blob FROM jobs WHERE state IN ('queued','delayed','running','failed')
                 UNION SELECT result FROM jobs WHERE result IS NOT NULL ORDER BY 1",
            )?;
            let keys = statement.query_map([], |row| row.get::<_, String>(0))?;
            let mut keys: Vec<BlobKey> =
                keys.map(|key| parsed(BlobKey::parse(&key?))).collect::<StoreResult<_>>()?;
            if let Some(id) = owner::marked_id(&conn)? {
                keys.push(BlobKey::marker(&id));
            }
            Ok(keys)
        };
        Ok(read()?)
    }
}

/// Copies a database as it is at one moment, and tells the version of its schema.
fn copy(from: &Path, to: PathBuf) -> Result<(PathBuf, u64), PortError> {
    let Some(target) = to.to_str() else {
        let message = format!("{} is not UTF-8, which SQLite needs", to.display());
        return Err(PortError::new(ErrorKind::Invalid, message));
    };
    let copied = || -> StoreResult<u64> {
        super::private::make_database(&to)?;
        let conn = schema::open_reader(from)?;
        conn.execute("VACUUM INTO ?1", [target])?;
        let version = schema::open_reader(&to)?.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        Ok(unsigned(version))
    };
    let version = copied().map_err(|error| {
        let (kind, message) = error.summary();
        PortError::new(kind, format!("cannot copy {}: {message}", from.display()))
    })?;
    Ok((to, version))
}
