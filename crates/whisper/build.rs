//! Finds the CTranslate2 shared library that `scripts/native` unpacks, and tells dependents where it is (as
//! `DEP_VERBATIM_NATIVE_LIB_DIR`), because only the package of a binary can set that binary's run path.

use std::env;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=VERBATIM_NATIVE_LIB");
    if env::var_os("CARGO_FEATURE_SHARED_LIBRARY").is_none() {
        return;
    }
    if env::var_os("CARGO_FEATURE_FROM_SOURCE").is_some() {
        println!(
            "cargo::error=features shared-library and from-source exclude each other; add --no-default-features"
        );
        return;
    }
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let lib_dir = env::var_os("VERBATIM_NATIVE_LIB")
        .map_or_else(|| workspace_root(&manifest).join(".native").join("lib"), PathBuf::from);
    let library = lib_dir.join("libctranslate2.so");
    println!("cargo::rerun-if-changed={}", library.display());
    if !library.exists() {
        println!(
            "cargo::error=the CTranslate2 library is not in {}: run scripts/native first",
            lib_dir.display()
        );
        return;
    }
    // The second folder holds the empty archives that ct2rs names; see .cargo/config.toml.
    println!("cargo::rustc-link-search=native={}", lib_dir.display());
    println!("cargo::rustc-link-search=native={}", manifest.join("link").display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib_dir.display());
    println!("cargo::metadata=LIB_DIR={}", lib_dir.display());
}

fn workspace_root(manifest: &Path) -> &Path {
    manifest.parent().and_then(Path::parent).unwrap_or(manifest)
}
