//! Names for runs that were given none: an adjective, an animal, a number.

const ADJECTIVES: [&str; 48] = [
    "able", "amber", "bold", "brave", "bright", "brisk", "calm", "chill", "clean", "clear",
    "clever", "cosy", "crisp", "eager", "early", "fair", "fancy", "fast", "fine", "fond", "fresh",
    "glad", "gold", "good", "grand", "green", "happy", "keen", "kind", "light", "lively", "loud",
    "lucky", "mellow", "merry", "neat", "nice", "proud", "pure", "quick", "quiet", "rare", "sharp",
    "smart", "sunny", "swift", "warm", "wise",
];

const ANIMALS: [&str; 48] = [
    "ant", "badger", "bear", "beaver", "bee", "bison", "camel", "carp", "cat", "cod", "colt",
    "crab", "crane", "crow", "deer", "dog", "dove", "duck", "eagle", "eel", "elk", "finch", "fox",
    "frog", "goat", "goose", "hare", "hawk", "heron", "horse", "ibex", "jay", "lark", "lion",
    "lynx", "magpie", "mole", "moose", "mouse", "otter", "owl", "panda", "pika", "seal", "stork",
    "swan", "tiger", "wren",
];

/// A name out of random bytes.
pub(crate) fn invent(random: [u8; 16]) -> String {
    let adjective = ADJECTIVES[usize::from(random[0]) % ADJECTIVES.len()];
    let animal = ANIMALS[usize::from(random[1]) % ANIMALS.len()];
    let number = u16::from_le_bytes([random[2], random[3]]) % 1_000;
    format!("{adjective}-{animal}-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_three_parts() {
        assert_eq!(invent([0; 16]), "able-ant-0");
        assert_eq!(invent([255; 16]).split('-').count(), 3);
    }
}
