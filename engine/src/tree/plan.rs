//! Which pages a later write will need.

use super::{remove::neighbours, Tree};
use crate::page::{Absent, Miss, Pages};

impl Tree {
    /// Adds the pages that an insert of the key would need and that are not resident, as far as they can be known: a
    /// page hides those below it, so a plan is made again once its pages have come.
    pub fn plan_insert(&self, pages: &Pages, key: &[u8], missing: &mut Miss) {
        if let Err(Absent(no)) = self.try_insert(pages, key) {
            missing.add(no);
        }
    }

    fn try_insert(&self, pages: &Pages, key: &[u8]) -> Result<(), Absent> {
        self.path_to(pages, key).map(|_| ())
    }

    /// Adds the pages that a removal of the key would need and that are not resident, as far as they can be known.
    pub fn plan_remove(&self, pages: &Pages, key: &[u8], missing: &mut Miss) {
        let Err(Absent(no)) = self.try_remove(pages, key, missing) else {
            return;
        };
        missing.add(no);
    }

    fn try_remove(&self, pages: &Pages, key: &[u8], missing: &mut Miss) -> Result<(), Absent> {
        let Some((path, true)) = self.path_to(pages, key)? else {
            return Ok(());
        };
        for neighbour in neighbours(pages, &path)?.into_iter().flatten() {
            if pages.require(neighbour).is_err() {
                missing.add(neighbour);
            }
        }
        Ok(())
    }
}
