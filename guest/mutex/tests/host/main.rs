//! Mutex and semaphore over a kernel whose threads are the host's: crowds of them, and every rule broken.

mod crowds;
mod kernel;
mod rules;
