//! Progress of long work: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};

/// Shows how far something is, on standard error.
pub struct Progress {
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines { label: String, last_tenth: Mutex<u64> },
    Nothing,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of a download.
    Bytes,
    /// Thousandths of a whole.
    Permille,
}

impl Progress {
    /// Progress of `label`, counting to `total` (which may be set later).
    pub fn new(label: &str, total: u64, unit: Unit, quiet: bool) -> Self {
        if quiet {
            return Self { shown: Shown::Nothing };
        }
        if !std::io::stderr().is_terminal() {
            return Self { shown: Shown::Lines { label: label.to_owned(), last_tenth: Mutex::new(0) } };
        }
        let template = match unit {
            Unit::Bytes => "{msg} [{bar:30}] {bytes}/{total_bytes} {eta}",
            Unit::Permille => "{msg} [{bar:30}] {percent:>3} % {eta}",
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style).with_message(label.to_owned());
        Self { shown: Shown::Bar(bar) }
    }

    /// `done` of `total` are done.
    pub fn set(&self, done: u64, total: u64) {
        match &self.shown {
            Shown::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Shown::Lines { label, last_tenth } => {
                let tenth = (done * 10).checked_div(total).unwrap_or(0);
                let mut last = last_tenth.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if tenth > *last {
                    *last = tenth;
                    eprintln!("{label}: {} %", tenth * 10);
                }
            }
            Shown::Nothing => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
