//! Lists: a page of items and the cursor of the next one.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::problem::{Answer, Refusal};

/// The most items of one page.
pub(crate) const MAX_PAGE: u32 = 500;

/// A page of a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items, in the order of the list.
    pub items: Vec<T>,
    /// The `cursor` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A page that is the whole list.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }

    /// A page of a list whose cursor is the key of its last item.
    pub fn keyed(items: Vec<T>, limit: u32, key: impl Fn(&T) -> String) -> Self {
        let next = (items.len() as u32 >= limit)
            .then(|| items.last().map(key))
            .flatten();
        Self { items, next }
    }
}

/// Which page.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// How many items, at most 500 (default 50).
    pub limit: Option<u32>,
    /// The `next` of the page before.
    pub cursor: Option<String>,
}

impl PageQuery {
    /// The number of items to answer.
    pub(crate) fn limit(&self) -> u32 {
        self.limit.unwrap_or(50).clamp(1, MAX_PAGE)
    }

    /// The cursor as a number, `i64::MAX` at the beginning of a list that is newest first.
    pub(crate) fn before(&self) -> Answer<i64> {
        match &self.cursor {
            None => Ok(i64::MAX),
            Some(text) => text
                .parse()
                .map_err(|_| Refusal::invalid(format!("cursor `{text}` is not one of this list"))),
        }
    }
}
