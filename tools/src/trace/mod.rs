//! The trace stream on the host's side: decoding it as it comes, what it adds up to, and its forms
//! for people and for other tools. The format itself is `shared_abi::trace_stream`.

pub mod export;
pub mod model;
pub mod stream;
