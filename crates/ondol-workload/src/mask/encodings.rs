//! The forms in which a secret turns up in output: as it is, and as the programs that it passes
//! through write it.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};

use super::MIN_LENGTH;

/// Adds every pattern of one secret.
pub(super) fn collect(secret: &str, patterns: &mut BTreeSet<Vec<u8>>) {
    let trimmed = secret.trim();
    if trimmed.len() < MIN_LENGTH {
        return;
    }
    for whole in BTreeSet::from([secret, trimmed]) {
        textual(whole, patterns);
        binary(whole.as_bytes(), patterns);
    }
    if trimmed.contains('\n') {
        // Logs are lines, so a key of several lines is never met in one piece.
        for line in trimmed.lines() {
            textual(line.trim(), patterns);
        }
    }
}

fn add(pattern: impl Into<Vec<u8>>, patterns: &mut BTreeSet<Vec<u8>>) {
    let pattern = pattern.into();
    if pattern.len() >= MIN_LENGTH {
        patterns.insert(pattern);
    }
}

/// Forms that keep most characters.
fn textual(text: &str, patterns: &mut BTreeSet<Vec<u8>>) {
    if text.len() < MIN_LENGTH {
        return;
    }
    add(text, patterns);
    json(text, patterns);
    percent(text, patterns);
    xml(text, patterns);
    shell(text, patterns);
}

fn json(text: &str, patterns: &mut BTreeSet<Vec<u8>>) {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let inner = quoted
        .get(1..quoted.len().saturating_sub(1))
        .unwrap_or_default()
        .to_owned();
    let ascii: String = inner
        .encode_utf16()
        .map(|unit| {
            if unit < 128 {
                char::from(unit as u8).to_string()
            } else {
                format!("\\u{unit:04x}")
            }
        })
        .collect();
    add(inner.replace('/', "\\/"), patterns);
    // JSON inside JSON, as structured loggers write a body they were given.
    let twice = serde_json::to_string(&inner).unwrap_or_default();
    add(
        twice
            .get(1..twice.len().saturating_sub(1))
            .unwrap_or_default(),
        patterns,
    );
    add(ascii, patterns);
    add(inner, patterns);
}

fn percent(text: &str, patterns: &mut BTreeSet<Vec<u8>>) {
    let encode = |kept: &str, upper: bool, plus: bool| -> String {
        let mut out = String::new();
        for byte in text.bytes() {
            if byte.is_ascii_alphanumeric() || kept.as_bytes().contains(&byte) {
                out.push(char::from(byte));
            } else if plus && byte == b' ' {
                out.push('+');
            } else if upper {
                out.push_str(&format!("%{byte:02X}"));
            } else {
                out.push_str(&format!("%{byte:02x}"));
            }
        }
        out
    };
    // RFC 3986, Python's quote, JavaScript's encodeURIComponent and encodeURI, forms, user info.
    for kept in [
        "-._~",
        "-._~/",
        "-_.!~*'()",
        "-_.!~*'();/?:@&=+$,#",
        "-_.*",
        "-._~!$&'()*+,;=",
        "-._~$&+,/:;=@",
    ] {
        for upper in [true, false] {
            add(encode(kept, upper, false), patterns);
            add(encode(kept, upper, true), patterns);
        }
    }
}

fn xml(text: &str, patterns: &mut BTreeSet<Vec<u8>>) {
    let amp = text.replace('&', "&amp;").replace('<', "&lt;");
    for escaped in [amp.clone(), amp.replace('>', "&gt;")] {
        add(escaped.clone(), patterns);
        for double in ["&quot;", "&#34;", "&#x22;"] {
            add(escaped.replace('"', double), patterns);
            for single in ["&apos;", "&#39;", "&#x27;", "&#039;"] {
                add(escaped.replace('"', double).replace('\'', single), patterns);
            }
        }
        for single in ["&apos;", "&#39;", "&#x27;", "&#039;"] {
            add(escaped.replace('\'', single), patterns);
        }
    }
}

fn shell(text: &str, patterns: &mut BTreeSet<Vec<u8>>) {
    add(text.replace('\'', "'\\''"), patterns);
    add(text.replace('\'', "'\"'\"'"), patterns);
    add(text.replace('\'', "\\'"), patterns);
    let escape = |special: &str| -> String {
        text.chars().fold(String::new(), |mut out, character| {
            if special.contains(character) {
                out.push('\\');
            }
            out.push(character);
            out
        })
    };
    add(escape("\\\"$`"), patterns);
    add(escape("\\\"$`!"), patterns);
    // bash's printf %q, and `set -x` of what needs quoting.
    add(escape("\\\"$`!'#&*()[]{};<>?|~ ^"), patterns);
    add(escape("\\\"$`!'#&*()[]{};<>?|~ ^,"), patterns);
}

/// Forms that keep no character.
fn binary(bytes: &[u8], patterns: &mut BTreeSet<Vec<u8>>) {
    add(data_encoding::HEXLOWER.encode(bytes), patterns);
    add(data_encoding::HEXUPPER.encode(bytes), patterns);
    add(data_encoding::BASE32.encode(bytes), patterns);
    add(STANDARD.encode(bytes), patterns);
    add(STANDARD_NO_PAD.encode(bytes), patterns);
    add(URL_SAFE.encode(bytes), patterns);
    add(URL_SAFE_NO_PAD.encode(bytes), patterns);
    for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        for offset in 0..3usize {
            // Inside longer data the first and last characters also depend on the neighbours.
            let mut shifted = vec![0u8; offset];
            shifted.extend_from_slice(bytes);
            let text = engine.encode(&shifted);
            let first = [0, 2, 3][offset];
            let last = shifted.len() * 8 / 6;
            if let Some(core) = text.get(first..last) {
                add(core, patterns);
            }
        }
    }
    // `base64` and `openssl` break lines.
    let whole = STANDARD.encode(bytes);
    for width in [76, 64] {
        if whole.len() > width {
            whole
                .as_bytes()
                .chunks(width)
                .filter(|part| part.len() >= 8)
                .for_each(|part| add(part, patterns));
        }
    }
}

#[cfg(test)]
mod tests {
    use ondol_types::Secret;
    use proptest::prelude::*;

    use super::*;
    use crate::mask::Masker;

    const SECRET: &str = "p@ss w/rd\"'<&>$1`\\é";

    fn masks(secret: &str, text: &str) -> bool {
        let masked = Masker::new([&Secret::new(secret.to_owned())])
            .mask(text)
            .into_owned();
        masked == "***" || masked == "\"***\"" || masked == "'***'"
    }

    #[test]
    fn usual_encodings_are_found() {
        let forms = [
            SECRET.to_owned(),
            serde_json::to_string(SECRET).unwrap(),
            "\"p@ss w\\/rd\\\"'<&>$1`\\\\\\u00e9\""
                .to_owned()
                .replace("\\/", "/"),
            "p%40ss%20w%2Frd%22%27%3C%26%3E%241%60%5C%C3%A9".to_owned(),
            "p%40ss%20w%2frd%22%27%3c%26%3e%241%60%5c%c3%a9".to_owned(),
            "p%40ss+w%2Frd%22%27%3C%26%3E%241%60%5C%C3%A9".to_owned(),
            "p@ss w/rd&quot;&#39;&lt;&amp;&gt;$1`\\é".to_owned(),
            "'p@ss w/rd\"'\\''<&>$1`\\é'".to_owned(),
            "'p@ss w/rd\"'\"'\"'<&>$1`\\é'".to_owned(),
            "\"p@ss w/rd\\\"'<&>\\$1\\`\\\\é\"".to_owned(),
            STANDARD.encode(SECRET),
            URL_SAFE_NO_PAD.encode(SECRET),
            data_encoding::HEXLOWER.encode(SECRET.as_bytes()),
            data_encoding::HEXUPPER.encode(SECRET.as_bytes()),
        ];
        for form in forms {
            assert!(masks(SECRET, &form), "{form}");
        }
    }

    #[test]
    fn every_line_of_a_key_is_found() {
        let key = "-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA+x/y=\n-----END KEY-----\n";
        let masker = Masker::new([&Secret::new(key.to_owned())]);
        for line in key.lines() {
            assert_eq!(masker.mask(line), "***");
        }
        assert_eq!(
            masker.mask(
                "{\"k\":\"-----BEGIN KEY-----\\nMIIEpAIBAAKCAQEA+x/y=\\n-----END KEY-----\\n\"}"
            ),
            "{\"k\":\"***\"}"
        );
    }

    #[test]
    fn a_trailing_newline_does_not_hide_a_token() {
        let masker = Masker::new([&Secret::new("tok-12345\n".to_owned())]);
        assert_eq!(masker.mask("Bearer tok-12345"), "Bearer ***");
        assert_eq!(masker.mask(&STANDARD.encode("tok-12345")), "***");
    }

    proptest! {
        #[test]
        fn base64_of_longer_data_is_found(before in "[a-z]{0,9}", secret in "[!-~]{6,40}", after in "[a-z]{0,9}") {
            let masker = Masker::new([&Secret::new(secret.clone())]);
            for encoded in [STANDARD.encode(format!("{before}{secret}{after}")), URL_SAFE.encode(format!("{before}{secret}{after}"))] {
                let masked = masker.mask(&encoded).into_owned();
                prop_assert!(masked.contains("***"), "{} in {}", secret, encoded);
                // What is left on either side belongs to the neighbours but for part of one character.
                let left: usize = masked.split("***").map(str::len).sum();
                prop_assert!(left <= (before.len() + after.len()) * 4 / 3 + 8, "{masked}");
            }
        }

        #[test]
        fn json_is_found(secret in "\\PC{4,40}") {
            prop_assume!(secret.trim().len() >= MIN_LENGTH);
            let masker = Masker::new([&Secret::new(secret.clone())]);
            let masked = masker.mask(&serde_json::to_string(&secret).unwrap()).into_owned();
            prop_assert_eq!(masked.replace(' ', ""), "\"***\"");
        }
    }
}
