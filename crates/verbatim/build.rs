//! Tells the dynamic linker where the binary finds CTranslate2: beside it once installed, in `.native` until then.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Set by verbatim-whisper's build script; absent when CTranslate2 is linked statically.
    if let Some(lib_dir) = std::env::var_os("DEP_VERBATIM_NATIVE_LIB_DIR") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/verbatim");
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib_dir.display());
    }
}
