//! Stand-in for the page space (the final one replaces this file).

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageNo(pub u32);

/// Pages that a step needs and that are not resident. The step changed nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Miss {
    pub pages: Vec<PageNo>,
}

impl Miss {
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }
}

pub(crate) type Entries = std::collections::BTreeMap<Vec<u8>, (Vec<u8>, u32)>;

#[derive(Default)]
pub struct Pages {
    pub(crate) trees: Vec<Entries>,
}

impl Pages {
    pub fn in_memory() -> Pages {
        Pages::default()
    }
    pub fn file_bytes(&self) -> u64 {
        self.trees
            .iter()
            .flatten()
            .map(|(k, (v, _))| (k.len() + v.len() + 16) as u64)
            .sum()
    }
    pub fn free_bytes(&self) -> u64 {
        0
    }
    pub fn dirty_bytes(&self) -> u64 {
        0
    }
}
