//! Decoding and voice activity on real files, all of them made on the spot by ffmpeg, sox and flite.

mod bad_input;
mod bounds;
mod formats;
mod hostile;
mod mutation;
mod opening;
mod people;
mod speech;
mod support;
mod wav;
