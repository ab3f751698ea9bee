//! The engine with real models on real and synthesised speech.

mod batching;
mod hearing;
mod loading;
mod multilingual;
mod port;
mod support;
mod words;
