//! Request ids: unique across members and restarts without coordination.

/// Width of the part that counts: 40 bits of milliseconds and 8 bits of counter.
const COUNTING_BITS: u32 = 48;

/// Generator of 64-bit request ids: the low 16 bits of the member id, the low 40 bits of the unix milliseconds at process
/// start, and a counter of 8 bits that carries into the milliseconds. A member would have to hand out more than 256 ids per
/// millisecond of uptime to repeat one after a restart.
///
/// Ids of leases chosen by the server come from the same sequence, so they are not consecutive.
#[derive(Clone, Debug)]
pub struct RequestIds {
    member: u64,
    counting: u64,
}

impl RequestIds {
    /// `unix_ms` is the wall clock at process start.
    pub fn new(member_id: u64, unix_ms: u64) -> RequestIds {
        RequestIds {
            member: member_id << COUNTING_BITS,
            counting: unix_ms << 8,
        }
    }

    pub fn next_id(&mut self) -> u64 {
        self.counting = self.counting.wrapping_add(1);
        self.member | (self.counting & ((1 << COUNTING_BITS) - 1))
    }

    /// Id for a lease whose client left the choice to the server: positive, never 0 (0 means "no lease").
    pub fn next_lease_id(&mut self) -> i64 {
        loop {
            let id = (self.next_id() & (i64::MAX as u64)) as i64;
            if id != 0 {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_member_milliseconds_counter() {
        let mut ids = RequestIds::new(0xaaaa_bbbb_cccc_1234, 0x99_0102_0304_0506);
        assert_eq!(ids.next_id(), 0x1234_0203_0405_0601);
        assert_eq!(ids.next_id(), 0x1234_0203_0405_0602);
    }

    #[test]
    fn counter_carries_into_the_milliseconds() {
        let mut ids = RequestIds::new(1, 7);
        for _ in 0..255 {
            ids.next_id();
        }
        assert_eq!(ids.next_id(), 0x0001_0000_0000_0800);
    }

    #[test]
    fn wrapping_never_touches_the_member() {
        let mut ids = RequestIds::new(0xffff, (1 << 40) - 1);
        for _ in 0..255 {
            ids.next_id();
        }
        assert_eq!(ids.next_id(), 0xffff_0000_0000_0000);
    }

    #[test]
    fn lease_ids_are_positive_and_never_zero() {
        let mut ids = RequestIds::new(0x8000, (1 << 40) - 1);
        for _ in 0..255 {
            assert!(ids.next_lease_id() > 0);
        }
        // The next raw id is 0x8000_0000_0000_0000, which masks to 0 and is skipped.
        assert_eq!(ids.next_lease_id(), 1);
    }
}
