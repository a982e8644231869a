//! Placeholder: see the brief.
pub trait EntryFormat: Send + Sync + 'static {}
