//! Checksums of files: SHA-256, and the object id that git (and so the hub) gives to a small file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::error::ModelError;

/// What a file must hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// SHA-256 in lower-case hexadecimal.
    Sha256(String),
    /// Git's object id of the file: SHA-1 of `blob <length>\0` and the content.
    GitBlob(String),
}

impl Checksum {
    /// Reads the file once and compares. Returns its length and its SHA-256.
    ///
    /// # Errors
    /// [`ModelError::Damaged`] when it differs, [`ModelError::Io`] when it cannot be read.
    pub(crate) fn check(&self, path: &Path) -> Result<(u64, String), ModelError> {
        let file = File::open(path).map_err(ModelError::io(path))?;
        let bytes = file.metadata().map_err(ModelError::io(path))?.len();
        let mut git = Sha1::new();
        git.update(format!("blob {bytes}\0"));
        let mut sha256 = Sha256::new();
        let wants_git = matches!(self, Self::GitBlob(_));
        read_pieces(file, |piece| {
            sha256.update(piece);
            if wants_git {
                git.update(piece);
            }
        })
        .map_err(ModelError::io(path))?;
        let sha256 = hex::encode(sha256.finalize());
        let (expected, actual) = match self {
            Self::Sha256(expected) => (expected, sha256.clone()),
            Self::GitBlob(expected) => (expected, hex::encode(git.finalize())),
        };
        if *expected != actual {
            let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            return Err(ModelError::Damaged { file: name, expected: expected.clone(), actual });
        }
        Ok((bytes, sha256))
    }
}

fn read_pieces(mut file: File, mut each: impl FnMut(&[u8])) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            count => each(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> anyhow::Result<tempfile::NamedTempFile> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), "hello\n")?;
        Ok(file)
    }

    #[test]
    fn agrees_with_sha256sum_and_with_git_hash_object() -> anyhow::Result<()> {
        let file = hello()?;
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let expected = (6, sha256.to_owned());
        assert_eq!(Checksum::Sha256(sha256.to_owned()).check(file.path())?, expected);
        let git = Checksum::GitBlob("ce013625030ba8dba906f756967f9e9ca394464a".to_owned());
        assert_eq!(git.check(file.path())?, expected);
        Ok(())
    }

    #[test]
    fn another_content_is_refused() -> anyhow::Result<()> {
        let file = hello()?;
        for checksum in [Checksum::Sha256("00".repeat(32)), Checksum::GitBlob("00".repeat(20))] {
            assert!(matches!(checksum.check(file.path()), Err(ModelError::Damaged { .. })));
        }
        Ok(())
    }
}
