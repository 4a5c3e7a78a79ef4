//! What one room needs of another, wired: each trait here was declared by the room that needs
//! it, and is implemented over the room that has it.

pub(super) mod actions;
pub(super) mod code;
pub(super) mod containers;
pub(super) mod doors;
pub(super) mod image;
pub(super) mod log;
pub(super) mod models;
pub(super) mod progress;
pub(super) mod retention;
pub(super) mod scraping;
pub(super) mod tracking;
pub(super) mod traffic;
