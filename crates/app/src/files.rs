//! Which files a command line means, and where their transcripts go.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use verbatim_core::render::TranscriptFormat;

use crate::cli::FilesArgs;

/// One thing to transcribe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

impl Input {
    /// The name shown to people.
    pub fn label(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Stdin => "standard input".to_owned(),
        }
    }

    /// The file name without its extension.
    fn stem(&self) -> String {
        match self {
            Self::File(path) => path
                .file_stem()
                .map_or_else(|| "audio".to_owned(), |stem| stem.to_string_lossy().into_owned()),
            Self::Stdin => "stdin".to_owned(),
        }
    }
}

/// The inputs that `arguments` name, patterns expanded, in order.
///
/// # Errors
/// When a file does not exist, a pattern matches nothing, or standard input is named twice.
pub fn expand(arguments: &[String]) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for argument in arguments {
        if argument == "-" {
            if inputs.contains(&Input::Stdin) {
                bail!("standard input (-) can be read only once");
            }
            inputs.push(Input::Stdin);
        } else if Path::new(argument).exists() {
            inputs.push(Input::File(PathBuf::from(argument)));
        } else {
            let matches: Vec<PathBuf> = glob::glob(argument)
                .with_context(|| format!("{argument} is neither a file nor a pattern"))?
                .filter_map(Result::ok)
                .filter(|path| path.is_file())
                .collect();
            if matches.is_empty() {
                bail!("{argument}: no such file");
            }
            inputs.extend(matches.into_iter().map(Input::File));
        }
    }
    Ok(inputs)
}

/// Writes one rendered transcript: to standard output, or into the folder of `--output-dir`.
///
/// # Errors
/// When the file cannot be written.
pub fn deliver(arguments: &FilesArgs, input: &Input, many: bool, rendered: &str) -> anyhow::Result<()> {
    let Some(folder) = &arguments.output_dir else {
        if many && matches!(TranscriptFormat::from(arguments.format), TranscriptFormat::Text) {
            println!("{}:", input.label());
        }
        print!("{rendered}");
        if !rendered.ends_with('\n') {
            println!();
        }
        return Ok(());
    };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let extension = TranscriptFormat::from(arguments.format).extension();
    let path = free_name(folder, &input.stem(), extension);
    std::fs::write(&path, rendered).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("{} -> {}", input.label(), path.display());
    Ok(())
}

/// `stem.extension`, or `stem-2.extension` and so on: two inputs of one name must not overwrite each other, and neither
/// may a second run.
fn free_name(folder: &Path, stem: &str, extension: &str) -> PathBuf {
    (1..)
        .map(|number| match number {
            1 => folder.join(format!("{stem}.{extension}")),
            _ => folder.join(format!("{stem}-{number}.{extension}")),
        })
        .find(|path| !path.exists())
        .unwrap_or_else(|| folder.join(format!("{stem}.{extension}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_expand_and_missing_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.wav", "a.wav", "c.txt"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let pattern = folder.path().join("*.wav").display().to_string();
        let inputs = expand(&[pattern, "-".into()]).unwrap();
        assert_eq!(inputs.len(), 3);
        assert_eq!(inputs[0], Input::File(folder.path().join("a.wav")));
        let error = expand(&["nowhere.wav".into()]).unwrap_err();
        assert!(error.to_string().contains("nowhere.wav"));
        assert!(expand(&["-".into(), "-".into()]).is_err());
    }

    #[test]
    fn files_of_one_name_do_not_overwrite_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let first = free_name(folder.path(), "talk", "srt");
        std::fs::write(&first, "x").unwrap();
        assert_eq!(free_name(folder.path(), "talk", "srt"), folder.path().join("talk-2.srt"));
    }
}
