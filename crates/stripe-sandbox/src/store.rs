//! A collection of objects, in order of creation.

use std::collections::HashMap;

/// An object with an id.
pub trait Keyed {
    fn id(&self) -> &str;
}

/// Objects by id, in order of creation.
#[derive(Debug, Clone)]
pub struct Store<T> {
    rows: Vec<Option<T>>,
    positions: HashMap<String, usize>,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            positions: HashMap::new(),
        }
    }
}

impl<T: Keyed> Store<T> {
    /// Adds an object, or replaces the one with the same id.
    pub fn insert(&mut self, object: T) {
        match self.positions.get(object.id()) {
            Some(&position) => self.rows[position] = Some(object),
            None => {
                self.positions
                    .insert(object.id().to_owned(), self.rows.len());
                self.rows.push(Some(object));
            }
        }
    }

    #[must_use]
    pub fn get(&self, id: &str) -> Option<&T> {
        self.rows.get(*self.positions.get(id)?)?.as_ref()
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.rows.get_mut(*self.positions.get(id)?)?.as_mut()
    }

    pub fn remove(&mut self, id: &str) -> Option<T> {
        let position = self.positions.remove(id)?;
        self.rows.get_mut(position)?.take()
    }

    /// Oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.rows.iter().flatten()
    }

    /// Oldest first.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> {
        self.rows.iter_mut().flatten()
    }
}
