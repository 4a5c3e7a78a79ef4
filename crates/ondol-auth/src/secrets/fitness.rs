//! Which values can be secrets at all.
//!
//! Every occurrence of a secret in a log is masked. Masking `true` or `8080` would blot out logs
//! and, worse, show by its stars what the secret is; masking nothing below four characters is the
//! rule of the mask. So such values are refused where they are set.

use ondol_types::{Secret, SecretName};

use crate::error::AuthError;

/// The most bytes a value may have.
pub(crate) const MAX_BYTES: usize = 64 * 1024;
const MIN_CHARS: usize = 4;

/// Words that stand in logs for other reasons, or that everybody tries first.
const COMMON: &[&str] = &[
    "true",
    "false",
    "null",
    "none",
    "undefined",
    "enabled",
    "disabled",
    "default",
    "auto",
    "production",
    "staging",
    "development",
    "testing",
    "test",
    "debug",
    "info",
    "warn",
    "warning",
    "error",
    "trace",
    "localhost",
    "127.0.0.1",
    "0.0.0.0",
    "http",
    "https",
    "http://",
    "https://",
    "utf-8",
    "postgres",
    "postgresql",
    "mysql",
    "sqlite",
    "redis",
    "user",
    "username",
    "root",
    "admin",
    "administrator",
    "guest",
    "ondol",
    "password",
    "password1",
    "passwd",
    "passw0rd",
    "p@ssw0rd",
    "p@ssword",
    "secret",
    "secrets",
    "changeme",
    "change-me",
    "change_me",
    "letmein",
    "welcome",
    "qwerty",
    "qwertyuiop",
    "asdf",
    "asdfgh",
    "asdfghjkl",
    "abcd",
    "abcdef",
    "abc123",
    "iloveyou",
    "monkey",
    "dragon",
    "example",
    "sample",
    "token",
    "key",
    "apikey",
    "api_key",
    "api-key",
    "xxxx",
    "todo",
    "fixme",
    "hunter2",
    "python",
    "node",
    "main",
    "master",
];

/// Refuses values that could not be masked, or not be given to a program.
pub(crate) fn check(name: &SecretName, value: &Secret<String>) -> Result<(), AuthError> {
    let value = value.expose();
    let unfit = |problem, hint| {
        Err(AuthError::UnfitSecret {
            name: name.clone(),
            problem,
            hint,
        })
    };
    const PLAIN: &str = "if it is no secret, write it under `env` in ondol.yaml; if it is one, choose a longer random value";
    if value.len() > MAX_BYTES {
        return unfit(
            "it has more than 64 KiB",
            "keep large material in a volume, and only its key as a secret",
        );
    }
    if value.contains('\0') {
        return unfit(
            "it contains a NUL byte, which no environment variable can hold",
            "encode it, for example as base64",
        );
    }
    let trimmed = value.trim();
    if trimmed.chars().count() < MIN_CHARS {
        return unfit(
            "it is shorter than 4 characters, and would not be masked in logs",
            PLAIN,
        );
    }
    let lower = trimmed.to_lowercase();
    if COMMON.contains(&lower.as_str()) {
        return unfit(
            "it is a common word, and masking it would blot out logs",
            PLAIN,
        );
    }
    let digits = lower.bytes().all(|byte| byte.is_ascii_digit());
    if digits && lower.len() < 8 {
        return unfit(
            "it is a short number, and masking it would blot out logs",
            PLAIN,
        );
    }
    let first = lower.chars().next();
    if lower.chars().all(|c| Some(c) == first) {
        return unfit("it is one character repeated", PLAIN);
    }
    let counts = lower
        .as_bytes()
        .windows(2)
        .all(|pair| pair[1] == pair[0].wrapping_add(1));
    if counts {
        return unfit("it is a row of following characters", PLAIN);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_be_masked_are_refused_without_being_repeated() {
        let name: SecretName = "DATABASE_URL".parse().unwrap();
        let check = |value: &str| check(&name, &Secret::new(value.to_owned()));
        for good in [
            "postgres://u:p@h/db",
            "hX7!",
            "correct horse",
            "12345678901",
            "비밀번호입니다",
            "-----BEGIN KEY-----\nabc\n-----END KEY-----\n",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "abc",
            "    a   ",
            "true",
            "TRUE",
            "Password",
            " password\n",
            "1234",
            "8080",
            "123456",
            "aaaaaaa",
            "abcdefgh",
            "0123456789",
            "a\0bcdef",
        ] {
            let error = check(bad).unwrap_err();
            assert!(error.to_string().contains("DATABASE_URL"));
            assert!(
                bad.trim().len() < 5 || !error.to_string().contains(bad.trim()),
                "{error}"
            );
        }
        assert!(check(&"ab".repeat(MAX_BYTES / 2 + 1)).is_err());
        assert!(check(&"ab".repeat(MAX_BYTES / 2)).is_ok());
    }
}
