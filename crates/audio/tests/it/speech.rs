//! Voice activity: placeholder until figures are in.
