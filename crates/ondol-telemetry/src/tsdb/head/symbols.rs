//! Texts of labels, each held once and counted, so that what no series uses any more is let go.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

#[derive(Default)]
pub(crate) struct Symbols {
    texts: Vec<Option<Arc<str>>>,
    uses: Vec<u32>,
    free: Vec<u32>,
    ids: HashMap<Arc<str>, u32, RandomState>,
}

impl Symbols {
    /// The number of a text, counted as used once more.
    pub(crate) fn acquire(&mut self, text: &str) -> u32 {
        if let Some(&id) = self.ids.get(text) {
            self.uses[id as usize] += 1;
            return id;
        }
        let shared: Arc<str> = Arc::from(text);
        let id = match self.free.pop() {
            Some(id) => {
                self.texts[id as usize] = Some(Arc::clone(&shared));
                self.uses[id as usize] = 1;
                id
            }
            None => {
                self.texts.push(Some(Arc::clone(&shared)));
                self.uses.push(1);
                (self.texts.len() - 1) as u32
            }
        };
        self.ids.insert(shared, id);
        id
    }

    pub(crate) fn release(&mut self, id: u32) {
        let at = id as usize;
        self.uses[at] -= 1;
        if self.uses[at] == 0
            && let Some(text) = self.texts[at].take()
        {
            self.ids.remove(&text);
            self.free.push(id);
        }
    }

    pub(crate) fn find(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    pub(crate) fn text(&self, id: u32) -> &str {
        self.texts
            .get(id as usize)
            .and_then(Option::as_deref)
            .unwrap_or_default()
    }

    pub(crate) fn arc(&self, id: u32) -> Arc<str> {
        self.texts
            .get(id as usize)
            .and_then(Clone::clone)
            .unwrap_or_default()
    }

    /// The place of each text among all, sorted.
    pub(crate) fn ranks(&self) -> Vec<u32> {
        let mut sorted: Vec<u32> = self.ids.values().copied().collect();
        sorted.sort_unstable_by(|&a, &b| self.text(a).cmp(self.text(b)));
        let mut ranks = vec![0; self.texts.len()];
        for (rank, id) in sorted.into_iter().enumerate() {
            ranks[id as usize] = rank as u32;
        }
        ranks
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}
