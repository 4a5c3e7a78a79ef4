//! Unfolded pages of blocks, up to a ceiling of bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A block and a place in it.
pub(crate) type Key = (u64, u64);

#[derive(Default)]
struct Pages {
    pages: HashMap<Key, (Arc<[u8]>, u64)>,
    bytes: usize,
    turn: u64,
}

pub(crate) struct Cache {
    pages: Mutex<Pages>,
    ceiling: usize,
}

impl Cache {
    pub(crate) fn new(ceiling: usize) -> Self {
        Self {
            pages: Mutex::default(),
            ceiling,
        }
    }

    /// The page, read by `load` when it is not there. Two that miss together both read.
    pub(crate) fn get<E>(
        &self,
        key: Key,
        load: impl FnOnce() -> Result<Arc<[u8]>, E>,
    ) -> Result<Arc<[u8]>, E> {
        {
            let mut guard = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
            let pages = &mut *guard;
            pages.turn += 1;
            if let Some((page, used)) = pages.pages.get_mut(&key) {
                *used = pages.turn;
                return Ok(Arc::clone(page));
            }
        }
        let page = load()?;
        // A page that would push out most of the others is not kept.
        if page.len() > self.ceiling / 2 {
            return Ok(page);
        }
        let mut guard = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = &mut *guard;
        if let Some((before, _)) = pages.pages.insert(key, (Arc::clone(&page), pages.turn)) {
            pages.bytes -= before.len();
        }
        pages.bytes += page.len();
        if pages.bytes > self.ceiling {
            let mut ages: Vec<(u64, Key)> = pages
                .pages
                .iter()
                .map(|(key, (_, used))| (*used, *key))
                .collect();
            ages.sort_unstable();
            for (_, key) in ages {
                if pages.bytes <= self.ceiling / 4 * 3 {
                    break;
                }
                if let Some((gone, _)) = pages.pages.remove(&key) {
                    pages.bytes -= gone.len();
                }
            }
        }
        Ok(page)
    }

    /// Lets go of the pages of a block that is gone.
    pub(crate) fn forget(&self, block: u64) {
        let mut guard = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = &mut *guard;
        let bytes = &mut pages.bytes;
        pages.pages.retain(|key, (page, _)| {
            if key.0 == block {
                *bytes -= page.len();
            }
            key.0 != block
        });
    }
}
