//! Blobs in order of key. A folder has no order of its own, so that each page reads the names of all and keeps its own.

use std::collections::BinaryHeap;
use std::io;
use std::path::Path;

use verbatim_core::ports::blobs::{AUDIO_PREFIX, BlobKey, BlobMeta, MARKERS_PREFIX, RESULTS_PREFIX};

use super::{is_missing, meta};

struct Page<'a> {
    prefix: &'a str,
    after: Option<&'a BlobKey>,
    limit: usize,
    /// The smallest keys so far, the largest of them on top.
    smallest: BinaryHeap<BlobKey>,
}

/// The first `limit` blobs after `after` whose key begins with `prefix`.
pub(super) fn list(
    root: &Path,
    prefix: &str,
    after: Option<&BlobKey>,
    limit: usize,
) -> io::Result<Vec<BlobMeta>> {
    let mut page = Page { prefix, after, limit, smallest: BinaryHeap::new() };
    for top in [AUDIO_PREFIX, RESULTS_PREFIX, MARKERS_PREFIX] {
        page.walk(root, top)?;
    }
    let mut found = Vec::new();
    for key in page.smallest.into_sorted_vec() {
        match std::fs::metadata(root.join(key.as_str())) {
            Ok(metadata) => found.push(meta(key, &metadata)),
            // Deleted since its name was read.
            Err(error) if is_missing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

impl Page<'_> {
    /// Offers every blob under `folder`, a key's beginning that ends in `/`.
    fn walk(&mut self, root: &Path, folder: &str) -> io::Result<()> {
        if !folder.starts_with(self.prefix) && !self.prefix.starts_with(folder) {
            return Ok(());
        }
        let entries = match std::fs::read_dir(root.join(folder)) {
            Ok(entries) => entries,
            Err(error) if is_missing(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = format!("{folder}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                self.walk(root, &format!("{name}/"))?;
            } else if let Ok(key) = BlobKey::parse(&name) {
                self.offer(key);
            }
        }
        Ok(())
    }

    fn offer(&mut self, key: BlobKey) {
        if !key.as_str().starts_with(self.prefix) || self.after.is_some_and(|after| key <= *after) {
            return;
        }
        self.smallest.push(key);
        if self.smallest.len() > self.limit {
            self.smallest.pop();
        }
    }
}
