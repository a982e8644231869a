//! Placeholder: see the brief.
pub struct Lifecycle;
impl Lifecycle { pub fn new() -> Self { Self } }
