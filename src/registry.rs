use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Things that are there until their registration is dropped.
pub(crate) struct Registry<T>(Mutex<Entries<T>>);

struct Entries<T> {
    next: u64,
    entries: HashMap<u64, T>,
}

impl<T> Registry<T> {
    pub(crate) fn insert(&self, entry: T) -> u64 {
        let mut all = self.lock();
        let id = all.next;
        all.next += 1;
        all.entries.insert(id, entry);
        id
    }

    pub(crate) fn remove(&self, id: u64) {
        let entry = self.lock().entries.remove(&id);
        // No lock is held where code of others may run.
        drop(entry);
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get<U>(&self, id: u64, of: impl FnOnce(&T) -> U) -> Option<U> {
        self.lock().entries.get(&id).map(of)
    }

    /// What `of` gives for each entry, where it gives something.
    pub(crate) fn collect<U>(&self, mut of: impl FnMut(u64, &T) -> Option<U>) -> Vec<U> {
        let all = self.lock();
        let entries = all.entries.iter();
        entries.filter_map(|(id, entry)| of(*id, entry)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Entries<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self(Mutex::new(Entries {
            next: 0,
            entries: HashMap::new(),
        }))
    }
}

impl<T> fmt::Debug for Registry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("len", &self.len())
            .finish()
    }
}
