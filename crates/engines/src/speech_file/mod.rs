//! Decoded audio as files that providers take, and where to cut it when they take no more at once.

mod cut;
mod wav;

pub(crate) use cut::next_piece;
pub(crate) use wav::{HEADER_BYTES, wav_bytes, wav_stream};
