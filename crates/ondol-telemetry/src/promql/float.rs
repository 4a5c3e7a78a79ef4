//! How numbers are written.

/// A number as Go writes it with the fewest digits that read as the same number: plain between
/// 1e-6 and 1e21, with an exponent elsewhere.
#[must_use]
pub fn format_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(rest) => ('-', rest),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{value}")
}

/// A number without an exponent, as values of the API and of `count_values` are written.
#[must_use]
pub fn format_plain(value: f64) -> String {
    if value.is_finite() {
        format!("{value}")
    } else {
        format_float(value)
    }
}

/// A number as `%g` of Go writes it, for messages.
pub(super) fn format_general(value: f64) -> String {
    format_float(value)
}

/// A number as OpenMetrics writes label values: always with a point or an exponent.
pub(super) fn format_open_metrics(value: f64) -> String {
    let text = format_float(value);
    if !value.is_finite() || text.contains(['.', 'e']) {
        return text;
    }
    text + ".0"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        for (value, text) in [
            (1.0, "1"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (1e21, "1e+21"),
            (1.5e-7, "1.5e-07"),
            (1e-6, "0.000001"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(format_float(value), text);
        }
        assert_eq!(format_open_metrics(1.0), "1.0");
        assert_eq!(format_open_metrics(0.25), "0.25");
    }
}
