//! End-to-end tests of the released binary.
mod events;
