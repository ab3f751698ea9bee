//! Blob adapters: audio and results by key, in a folder or a bucket. The [`conformance`] suite says what every adapter must
//! do.

pub mod conformance;
pub mod folder;
mod owned;
pub mod s3;

pub use folder::{FolderDisk, FolderStore};
pub use owned::{MarkerMissing, OwnedBlobs};
pub use s3::{S3Config, S3Store};
