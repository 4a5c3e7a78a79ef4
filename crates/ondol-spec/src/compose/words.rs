//! A command line as words, as a shell divides it, without anything else that a shell does.

/// Divides a line. Quotes keep spaces, `\` keeps the next character.
pub(super) fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("a single quote is not closed"),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('"') => break,
                        Some('\\') => match characters.next() {
                            Some(c) if "\"\\$`".contains(c) => word.push(c),
                            Some('\n') => {}
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("a double quote is not closed"),
                        },
                        Some(c) => word.push(c),
                        None => return Err("a double quote is not closed"),
                    }
                }
            }
            '\\' => match characters.next() {
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err("a `\\` is at the end"),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::split;

    #[test]
    fn lines_become_words() {
        for (line, expected) in [
            (
                "bundle exec thin -p 3000",
                &["bundle", "exec", "thin", "-p", "3000"][..],
            ),
            (
                "/bin/sh -c 'echo \"hello $HOSTNAME\"'",
                &["/bin/sh", "-c", "echo \"hello $HOSTNAME\""],
            ),
            ("a \"b c\"'d e'f", &["a", "b cd ef"]),
            ("a\\ b \"\\\"x\\\"\" '' \"\"", &["a b", "\"x\"", "", ""]),
            ("  spaced \t out \n", &["spaced", "out"]),
            ("one \\\n two", &["one", "two"]),
            ("\"a\\nb\"", &["a\\nb"]),
            ("", &[]),
        ] {
            assert_eq!(split(line).unwrap(), expected, "{line}");
        }
        assert!(split("a 'b").is_err() && split("a \"b").is_err() && split("a\\").is_err());
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(words in proptest::collection::vec("[ -~\u{e4}]{0,8}", 0..5)) {
            let line: Vec<String> = words
                .iter()
                .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
                .collect();
            prop_assert_eq!(split(&line.join(" ")).unwrap(), words);
        }
    }
}
