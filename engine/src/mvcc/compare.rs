//! The conditions of a transaction.

use super::key_range::Progress;
use super::read::{Found, Reader, Seen};
use crate::page::Miss;
use crate::planted::{planted, Fault};
use proto::etcdserverpb::{
    compare::{CompareResult, CompareTarget, TargetUnion},
    Compare,
};
use std::cmp::Ordering;

/// How far conditions are looked at.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Conditions that hold.
    held: usize,
    /// Of the next one.
    progress: Progress,
    /// Whether it was about any live key so far.
    is_live: bool,
}

impl Reader<'_> {
    /// Whether every condition holds in the store as it is; true for an empty list. Looks at up to `keys_left` keys, which are
    /// taken off. `None`: there are more, and `comparison` says where to go on, as it does after a miss.
    pub fn compare_all(
        &self,
        compares: &[Compare],
        comparison: &mut Comparison,
        keys_left: &mut usize,
    ) -> Result<Option<bool>, Miss> {
        while let Some(compare) = compares.get(comparison.held) {
            match self.compare(compare, comparison, keys_left)? {
                None => return Ok(None),
                Some(false) => return Ok(Some(false)),
                Some(true) => {
                    *comparison = Comparison {
                        held: comparison.held + 1,
                        ..Comparison::default()
                    };
                }
            }
            if planted(Fault::CompareFirstOnly) {
                break;
            }
        }
        Ok(Some(true))
    }

    fn compare(
        &self,
        compare: &Compare,
        comparison: &mut Comparison,
        keys_left: &mut usize,
    ) -> Result<Option<bool>, Miss> {
        let progress = comparison.progress.clone();
        if let Some(range) = progress.rest(&compare.key, &compare.range_end) {
            let mut walk = self.walk(range, None, None);
            loop {
                if *keys_left == 0 {
                    return Ok(None);
                }
                let key = match walk.next_of_any()? {
                    None => break,
                    Some(Seen::Dead(key)) => key,
                    Some(Seen::Live(found)) => {
                        if !self.holds(compare, Some(&found))? {
                            return Ok(Some(false));
                        }
                        comparison.is_live = true;
                        found.key
                    }
                };
                *keys_left -= 1;
                comparison.progress.pass(&key);
            }
        }
        if comparison.is_live {
            return Ok(Some(true));
        }
        self.holds(compare, None).map(Some)
    }

    /// Whether a condition holds for one key, or for a range without any.
    pub(crate) fn holds(&self, compare: &Compare, found: Option<&Found<'_>>) -> Result<bool, Miss> {
        // Of no key, a value never compares, and the numbers compare as zero.
        if found.is_none() && compare.target == CompareTarget::Value as i32 {
            return Ok(false);
        }
        Ok(holds(compare.result, self.order(compare, found)?))
    }

    /// How the key's field compares with the operand. An absent operand, or one for another target, is zero.
    fn order(&self, compare: &Compare, found: Option<&Found<'_>>) -> Result<Ordering, Miss> {
        let number = |field: fn(&Found<'_>) -> i64, operand: Option<i64>| {
            Ok(found.map_or(0, field).cmp(&operand.unwrap_or(0)))
        };
        let union = compare.target_union.as_ref();
        match CompareTarget::try_from(compare.target) {
            Ok(CompareTarget::Version) => number(
                |found| found.version,
                union.and_then(|union| match union {
                    TargetUnion::Version(version) => Some(*version),
                    _ => None,
                }),
            ),
            Ok(CompareTarget::Create) => number(
                |found| found.create,
                union.and_then(|union| match union {
                    TargetUnion::CreateRevision(revision) => Some(*revision),
                    _ => None,
                }),
            ),
            Ok(CompareTarget::Mod) => number(
                |found| found.at.main,
                union.and_then(|union| match union {
                    TargetUnion::ModRevision(revision) => Some(*revision),
                    _ => None,
                }),
            ),
            Ok(CompareTarget::Lease) => number(
                |found| found.lease,
                union.and_then(|union| match union {
                    TargetUnion::Lease(lease) => Some(*lease),
                    _ => None,
                }),
            ),
            Ok(CompareTarget::Value) => {
                let operand = match union {
                    Some(TargetUnion::Value(value)) => &value[..],
                    _ => &[],
                };
                match found {
                    Some(found) => found.with_value(self, |value| value.cmp(operand)),
                    None => Ok(Ordering::Equal),
                }
            }
            Err(_) => Ok(Ordering::Equal),
        }
    }
}

fn holds(result: i32, order: Ordering) -> bool {
    match CompareResult::try_from(result) {
        Ok(CompareResult::Equal) => order == Ordering::Equal,
        Ok(CompareResult::NotEqual) => order != Ordering::Equal,
        Ok(CompareResult::Greater) => order == Ordering::Greater,
        Ok(CompareResult::Less) => order == Ordering::Less,
        Err(_) => true,
    }
}
