//! Placeholder: see the brief.

