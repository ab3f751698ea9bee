//! Blob adapters: audio and results by key, in a folder. The [`conformance`] suite says what every adapter must do.

pub mod conformance;
pub mod folder;

pub use folder::FolderStore;
