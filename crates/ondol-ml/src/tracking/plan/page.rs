//! Page tokens: base64 of `{"offset":N}`. Clients hand them back unread.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::tracking::error::{TrackingError, TrackingResult};

/// The token of the page that begins at `offset`.
pub(crate) fn token(offset: i64) -> String {
    STANDARD.encode(serde_json::json!({ "offset": offset }).to_string())
}

/// Where a page begins; no token is the first.
pub(crate) fn offset(token: Option<&str>) -> TrackingResult<i64> {
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        return Ok(0);
    };
    let invalid =
        || TrackingError::invalid("Invalid page token, could not base64-decode it as an offset");
    let bytes = STANDARD.decode(token).map_err(|_| invalid())?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
    value
        .get("offset")
        .and_then(serde_json::Value::as_i64)
        .filter(|offset| (0..1 << 40).contains(offset))
        .ok_or_else(invalid)
}

/// The items of a page out of up to one more than it may have, with the next token.
pub(crate) fn cut<T>(mut items: Vec<T>, offset: i64, limit: i64) -> (Vec<T>, Option<String>) {
    let more = items.len() as i64 > limit;
    items.truncate(limit.max(0) as usize);
    (items, more.then(|| token(offset + limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_strangers_are_refused() {
        assert_eq!(offset(None).unwrap(), 0);
        assert_eq!(offset(Some("")).unwrap(), 0);
        assert_eq!(offset(Some(&token(77))).unwrap(), 77);
        for bad in [
            "x",
            "e30=",
            &STANDARD.encode("{\"offset\":-1}"),
            &STANDARD.encode("[]"),
        ] {
            assert!(offset(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_more_than_a_page_makes_a_next_page() {
        assert_eq!(cut(vec![1, 2, 3], 10, 2), (vec![1, 2], Some(token(12))));
        assert_eq!(cut(vec![1, 2], 10, 2), (vec![1, 2], None));
    }
}
