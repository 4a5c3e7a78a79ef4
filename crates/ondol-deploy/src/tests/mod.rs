//! Simulations: the real loops over a real database, against an engine, a gateway and secrets
//! that live in memory, keep what they were told over the death of the process, and note every
//! rule that is broken.

mod crashes;
mod fakes;
mod flows;
mod forget;
mod kept;
mod previews;
mod random;
mod scaling;
mod sim;
