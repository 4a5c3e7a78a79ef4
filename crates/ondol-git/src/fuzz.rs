//! Fuzz targets over what git's clients and its hook send.

pub use crate::hook::fuzz_hook as hook;
pub use crate::http::fuzz_push_head as push_head;

#[cfg(test)]
mod tests {
    #[test]
    fn corpora_and_mutations() {
        ondol_fuzzing::exercise("git_push_head", super::push_head);
        ondol_fuzzing::exercise("git_hook", super::hook);
    }
}
