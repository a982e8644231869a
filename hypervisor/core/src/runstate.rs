//! Placeholder: see the brief.
pub struct Runstate;
impl Runstate { pub fn new() -> Self { Self } }
