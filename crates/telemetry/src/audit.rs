//! The audit: who did what on which object, a line for each act. Lines go to files by day, or to the log where no folder is
//! named. See `docs/adr/0081`.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus::IntCounter;
use serde::Serialize;
use verbatim_core::time::Clock;

use crate::Metrics;

/// The target of these lines in the log. [`crate::logs::init`] lets them pass whatever its filter says.
pub const TARGET: &str = "audit";

/// One act. Fields that do not apply are left out of the line. There is no room in it for a secret or for anybody's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct AuditLine<'a> {
    /// What was done: `transcript.read`, `key.create` …
    pub action: &'a str,
    /// On what: an id, a name, a folder; `*` for a list, and where none was named.
    pub object: &'a str,
    /// Whose the object is, where the act gives that away or depends on it.
    #[serde(rename = "object.tenant", skip_serializing_if = "Option::is_none")]
    pub object_tenant: Option<&'a str>,
    /// What the object, a key, allows: scopes with commas between them.
    #[serde(rename = "object.scopes", skip_serializing_if = "Option::is_none")]
    pub object_scopes: Option<&'a str>,
    /// `done`, or the code of the error.
    pub outcome: &'a str,
    /// How it was done: `api` or `cli`.
    pub via: &'a str,
    /// Who did it on the command line: id and name of the operating system's user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<&'a str>,
    /// Who did it by the API: the tenant of the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<&'a str>,
    /// The key's id.
    #[serde(rename = "key.id", skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    /// The key's scopes, with commas between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<&'a str>,
    /// The client's address, as far as it can be believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<&'a str>,
    /// The request's id.
    #[serde(rename = "request.id", skip_serializing_if = "Option::is_none")]
    pub request: Option<&'a str>,
}

impl AuditLine<'_> {
    /// Into the log.
    fn log(&self) {
        let Self {
            action,
            object,
            object_tenant,
            object_scopes,
            outcome,
            via,
            actor,
            tenant,
            key,
            scopes,
            client,
            request,
        } = *self;
        tracing::info!(
            target: TARGET,
            action,
            object,
            object.tenant = object_tenant,
            object.scopes = object_scopes,
            outcome,
            via,
            actor,
            tenant,
            key.id = key,
            scopes,
            client,
            request.id = request,
            "somebody acted"
        );
    }
}

/// A line as it is in a file: as the log has it in JSON.
#[derive(Serialize)]
struct Written<'a> {
    timestamp: String,
    target: &'static str,
    #[serde(flatten)]
    line: &'a AuditLine<'a>,
}

/// Why the audit cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the audit cannot be written to {}: {source}; log.audit_dir names the folder", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

/// Where lines of the audit go.
pub struct AuditLog {
    files: Option<Files>,
    clock: Arc<dyn Clock>,
    unwritten: IntCounter,
}

impl AuditLog {
    /// The audit of this process: in files of `folder`, which is made where it is missing, or in the log. `user` is the id of the
    /// operating system's user, whose files are its own: no other one can keep this one from writing.
    ///
    /// # Errors
    /// When today's file cannot be written.
    pub fn open(
        folder: Option<&Path>,
        user: u32,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Self, AuditError> {
        let files = folder.map(|folder| Files { folder: folder.to_owned(), user });
        let audit = Self { files, clock, unwritten: metrics.access.audit_unwritten.clone() };
        if let Some(files) = &audit.files {
            let path = files.path(&audit.timestamp());
            let failed = |source| AuditError { path: path.clone(), source };
            DirBuilder::new().recursive(true).mode(0o700).create(&files.folder).map_err(failed)?;
            open(&path).map_err(failed)?;
        }
        Ok(audit)
    }

    /// Writes an act down. One that cannot be written to its file is counted and goes to the log: nothing waits for it.
    pub fn record(&self, line: &AuditLine<'_>) {
        let Some(files) = &self.files else { return line.log() };
        if let Err(error) = files.append(self.timestamp(), line) {
            self.unwritten.inc();
            let folder = files.folder.display();
            tracing::error!(target: TARGET, %error, %folder, "a line of the audit could not be written to its file");
            line.log();
        }
    }

    /// RFC 3339, UTC, milliseconds.
    fn timestamp(&self) -> String {
        let now = jiff::Timestamp::from_millisecond(self.clock.now().as_millis());
        format!("{:.3}", now.unwrap_or(jiff::Timestamp::UNIX_EPOCH))
    }
}

/// The files of one user, a file for each day (UTC). Each line opens its file anew, so that one which somebody else moves away,
/// or a disk that was full, costs no more lines than it must.
struct Files {
    folder: PathBuf,
    user: u32,
}

impl Files {
    /// The file of the day of this time.
    fn path(&self, timestamp: &str) -> PathBuf {
        let day = timestamp.split_once('T').map_or(timestamp, |(day, _)| day);
        self.folder.join(format!("audit-{}.{day}.jsonl", self.user))
    }

    fn append(&self, timestamp: String, line: &AuditLine<'_>) -> io::Result<()> {
        let file = open(&self.path(&timestamp))?;
        let mut text = serde_json::to_string(&Written { timestamp, target: TARGET, line })?;
        text.push('\n');
        if is_torn(&file)? {
            text.insert(0, '\n');
        }
        // In one piece: other processes append to the same file.
        (&file).write_all(text.as_bytes())
    }
}

/// To append to, and to be read by its owner only.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)
}

/// Whether the last line has no end, since the disk was full.
fn is_torn(file: &File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last != [b'\n'])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::{AtomicI64, Ordering};

    use serde_json::{Value, json};
    use verbatim_core::time::Timestamp;

    use super::*;

    const DAY: i64 = 24 * 3600 * 1000;

    #[derive(Default)]
    struct Hands(AtomicI64);

    impl Clock for Hands {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0.load(Ordering::Relaxed))
        }
    }

    fn read(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or(Value::Null)).collect()
    }

    fn line(object: &str) -> AuditLine<'_> {
        AuditLine { action: "job.read", object, outcome: "done", via: "api", ..AuditLine::default() }
    }

    #[test]
    fn lines_go_to_a_private_file_of_their_day_and_stay_there() {
        let (folder, clock, metrics) =
            (tempfile::tempdir().unwrap(), Arc::new(Hands::default()), Metrics::new().unwrap());
        let audit_dir = folder.path().join("audit");
        let open = || AuditLog::open(Some(&audit_dir), 7, clock.clone(), &metrics).unwrap();
        open().record(&line("a"));
        // After a restart, and of two processes at once.
        let (one, other) = (open(), open());
        one.record(&line("b"));
        other.record(&AuditLine { key: Some("key_1"), object_scopes: Some("jobs,read"), ..line("c\n") });
        clock.0.store(DAY, Ordering::Relaxed);
        one.record(&line("d"));

        let first = audit_dir.join("audit-7.1970-01-01.jsonl");
        let written = read(&first);
        let objects: Vec<_> = written.iter().map(|line| line["object"].as_str().unwrap()).collect();
        assert_eq!(objects, ["a", "b", "c\n"]);
        assert_eq!(
            written[2],
            json!({
                "timestamp": "1970-01-01T00:00:00.000Z", "target": "audit", "action": "job.read", "object": "c\n",
                "object.scopes": "jobs,read", "outcome": "done", "via": "api", "key.id": "key_1",
            })
        );
        assert_eq!(read(&audit_dir.join("audit-7.1970-01-02.jsonl")).len(), 1);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&first), mode(&audit_dir)), (0o600, 0o700));
        assert_eq!(metrics.access.audit_unwritten.get(), 0);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_what_comes_later_is_whole() {
        let (folder, clock, metrics) =
            (tempfile::tempdir().unwrap(), Arc::new(Hands::default()), Metrics::new().unwrap());
        let audit = AuditLog::open(Some(folder.path()), 7, clock.clone(), &metrics).unwrap();
        let path = folder.path().join("audit-7.1970-01-01.jsonl");
        // As a full disk leaves it.
        std::fs::write(&path, "{\"action\":\"jo").unwrap();
        audit.record(&line("a"));
        assert_eq!(read(&path)[1]["object"], "a");
        // Nobody can open a folder to write to it.
        clock.0.store(DAY, Ordering::Relaxed);
        std::fs::create_dir(folder.path().join("audit-7.1970-01-02.jsonl")).unwrap();
        audit.record(&line("b"));
        assert_eq!(metrics.access.audit_unwritten.get(), 1);
        assert!(metrics.render().unwrap().contains("verbatim_audit_lines_unwritten_total 1"));
        let refused = AuditLog::open(Some(folder.path()), 7, clock, &metrics).err().unwrap().to_string();
        assert!(refused.contains("log.audit_dir"), "{refused}");
    }
}
