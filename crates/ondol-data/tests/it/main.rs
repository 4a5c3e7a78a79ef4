//! Datasets end to end, without HTTP, on both databases.

mod failures;
mod fixture;
mod push;
mod reading;
mod speed;
