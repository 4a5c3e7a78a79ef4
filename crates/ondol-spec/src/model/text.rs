//! Values that people write as text with a unit, checked where they come in.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why a text is not what its place asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct TextError {
    text: String,
    expected: &'static str,
}

impl TextError {
    pub(crate) fn new(text: &str, expected: &'static str) -> Self {
        Self {
            text: text.chars().take(120).collect(),
            expected,
        }
    }
}

/// Serde, JSON Schema and OpenAPI by `Display` and `FromStr`.
macro_rules! text_form {
    ($name:ident, $expected:literal) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "title": $expected })
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .description(Some($expected))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
        }
    };
}
pub(crate) use text_form;

/// A length of time such as `30s`, `5m`, `1h30m` or `300ms`; whole milliseconds, at most 10 years.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(u64);

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];
const TEN_YEARS_MS: u64 = 3_650 * 86_400_000;

impl Period {
    /// From whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds * 1_000)
    }

    /// From milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Seconds, with fraction.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e3
    }

    /// As the standard library has it.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Whether it is no time at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.duration()
    }
}

impl FromStr for Period {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || TextError::new(text, "a duration such as `30s`, `5m`, `1h30m` or `300ms`");
        if text.trim() == "0" {
            return Ok(Self(0));
        }
        let mut rest = text.trim();
        let mut total = 0.0f64;
        let mut last = u64::MAX;
        if rest.is_empty() || rest.len() > 32 {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !(c.is_ascii_digit() || c == '.'))
                .ok_or_else(bad)?;
            let amount: f64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let end = rest
                .find(|c: char| !c.is_ascii_alphabetic())
                .unwrap_or(rest.len());
            let (_, unit) = UNITS
                .iter()
                .find(|(name, _)| *name == &rest[..end])
                .ok_or_else(bad)?;
            if *unit >= last {
                return Err(bad());
            }
            last = *unit;
            total += amount * *unit as f64;
            rest = &rest[end..];
        }
        if !total.is_finite() || total > TEN_YEARS_MS as f64 {
            return Err(bad());
        }
        Ok(Self(total.round() as u64))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (name, size) in UNITS {
            if rest >= size {
                write!(f, "{}{name}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

text_form!(Period, "a duration such as `30s`, `5m` or `300ms`");

/// A number of bytes such as `512MiB`, `2GiB` or `10MB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// From bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || TextError::new(text, "a size such as `512MiB`, `2GiB` or `10MB`");
        let text = text.trim();
        let digits = text
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .ok_or_else(bad)?;
        let amount: f64 = text[..digits].parse().map_err(|_| bad())?;
        let name = text[digits..].trim_start();
        let (_, unit) = SIZES
            .iter()
            .find(|(unit, _)| unit.eq_ignore_ascii_case(name))
            .ok_or_else(bad)?;
        let total = amount * *unit as f64;
        if !total.is_finite() || total > (1u64 << 53) as f64 {
            return Err(bad());
        }
        Ok(Self(total.round() as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZES
            .iter()
            .find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size));
        let (name, size) = exact.unwrap_or(&("B", 1));
        write!(f, "{}{name}", self.0 / size)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

text_form!(ByteSize, "a size such as `512MiB`");

/// A share such as `99.9%`, from 0 % to 100 %.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

impl Percent {
    /// As a ratio from 0 to 1.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

impl FromStr for Percent {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || TextError::new(text, "a percentage such as `99.9%`, from 0% to 100%");
        let number = text.trim().strip_suffix('%').ok_or_else(bad)?.trim_end();
        if number.is_empty()
            || !number
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
        {
            return Err(bad());
        }
        let value: f64 = number.parse().map_err(|_| bad())?;
        if value > 100.0 {
            return Err(bad());
        }
        Ok(Self((value * 1e4).round() as u32))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / 1e4)
    }
}

impl fmt::Debug for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

text_form!(Percent, "a percentage such as `99.9%`");

/// A newtype over checked text.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = TextError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(TextError::new(text, $expected)) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        text_form!($name, $expected);
    };
}
pub(crate) use checked_text;

checked_text!(
    /// A path of a URL: begins with `/`, no query, no fragment.
    UrlPath,
    "a path such as `/healthz`, which begins with `/`",
    |text| text.starts_with('/')
        && text.len() <= 1_024
        && !text.split('/').any(|part| part == "..")
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#\\\"<>`{}".contains(&byte))
);

impl UrlPath {
    /// `/`
    pub fn root() -> Self {
        Self("/".into())
    }
}

checked_text!(
    /// A host name such as `shop.example.org`, lower case, with an optional leading `*.`.
    HostName,
    "a host name such as `shop.example.org`",
    |text| {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        text.len() <= 253 && name.split('.').all(label)
    }
);
