//! The conditions of a transaction.

use super::key_range::KeyRange;
use super::read::{Found, Reader};
use crate::page::Miss;
use crate::planted::{planted, Fault};
use proto::etcdserverpb::{
    compare::{CompareResult, CompareTarget, TargetUnion},
    Compare,
};
use std::cmp::Ordering;

impl Reader<'_> {
    /// Whether every condition holds in the store as it is; true for an empty list.
    pub fn compare_all(&self, compares: &[Compare]) -> Result<bool, Miss> {
        for compare in compares {
            if !self.compare(compare)? {
                return Ok(false);
            }
            if planted(Fault::CompareFirstOnly) {
                break;
            }
        }
        Ok(true)
    }

    fn compare(&self, compare: &Compare) -> Result<bool, Miss> {
        let range = KeyRange::new(&compare.key, &compare.range_end);
        let mut walk = self.walk(range, None, None);
        let mut any = false;
        while let Some(found) = walk.next()? {
            any = true;
            if !self.holds(compare, Some(&found))? {
                return Ok(false);
            }
        }
        if any {
            return Ok(true);
        }
        self.holds(compare, None)
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
