//! The network: which links work, and how long a message takes.

use std::collections::BTreeMap;

use super::chance::Chance;
use super::swarm::NetworkPlan;

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Lost,
    /// Arrives at these times: once, or twice.
    Arrives(Vec<u64>),
}

pub struct Network {
    plan: NetworkPlan,
    members: usize,
    /// Cuts by (from, to), each with the number of partitions that made it.
    cut: BTreeMap<(usize, usize), u32>,
    /// When the last message of a link arrives, for links in order.
    last: BTreeMap<(usize, usize), u64>,
    calm: bool,
}

/// Directed links.
pub type Links = Vec<(usize, usize)>;

impl Network {
    pub fn new(plan: NetworkPlan, members: usize) -> Network {
        Network {
            plan,
            members,
            cut: BTreeMap::new(),
            last: BTreeMap::new(),
            calm: false,
        }
    }

    /// There are machines up to this number.
    pub fn set_members(&mut self, members: usize) {
        self.members = members;
    }

    pub fn is_open(&self, from: usize, to: usize) -> bool {
        !self.cut.contains_key(&(from, to))
    }

    pub fn cut(&mut self, links: &Links) {
        for link in links {
            *self.cut.entry(*link).or_default() += 1;
        }
    }

    pub fn mend(&mut self, links: &Links) {
        for link in links {
            if let Some(count) = self.cut.get_mut(link) {
                *count -= 1;
                if *count == 0 {
                    self.cut.remove(link);
                }
            }
        }
    }

    /// No loss, no duplicates, no partition from now on.
    pub fn calm(&mut self) {
        self.calm = true;
        self.cut.clear();
        self.plan.delay_max_ns = self.plan.delay_max_ns.min(2_000_000);
    }

    /// A duplicate is made only where `may_repeat`: what TCP carries once must not arrive twice.
    pub fn send(
        &mut self,
        from: usize,
        to: usize,
        may_repeat: bool,
        now: u64,
        chance: &mut Chance,
    ) -> Fate {
        if !self.is_open(from, to) || !self.calm && chance.per_million(self.plan.loss) {
            return Fate::Lost;
        }
        let mut times = vec![self.arrival(from, to, now, chance)];
        if !self.calm && may_repeat && chance.per_million(self.plan.duplicates) {
            times.push(self.arrival(from, to, now, chance));
        }
        Fate::Arrives(times)
    }

    fn arrival(&mut self, from: usize, to: usize, now: u64, chance: &mut Chance) -> u64 {
        let mut delay = chance.between(self.plan.delay_min_ns, self.plan.delay_max_ns);
        if !self.calm && chance.per_million(self.plan.spikes) {
            delay += chance.below(self.plan.spike_ns);
        }
        let mut at = now + delay;
        if self.plan.in_order {
            let last = self.last.entry((from, to)).or_default();
            at = at.max(*last + 1);
            *last = at;
        }
        at
    }

    /// How long a message of a client takes. Clients reach every member that runs.
    pub fn client_delay(&self, chance: &mut Chance) -> u64 {
        chance.between(self.plan.delay_min_ns, self.plan.delay_max_ns)
    }

    /// Both directions between two halves.
    pub fn halves(&self, chance: &mut Chance) -> Links {
        let mut side: Vec<bool> = (0..=self.members).map(|_| chance.percent(50)).collect();
        let odd = chance.between(1, self.members as u64) as usize;
        side[odd] = !side[1 + odd % self.members];
        self.links(|from, to| side[from] != side[to])
    }

    /// Everything from or to one member, in the given directions.
    pub fn around(&self, member: usize, inbound: bool, outbound: bool) -> Links {
        self.links(|from, to| inbound && to == member || outbound && from == member)
    }

    /// One pair that cannot talk.
    pub fn pair(&self, chance: &mut Chance) -> Links {
        let one = chance.between(1, self.members as u64) as usize;
        let other = 1 + one % self.members;
        self.links(|from, to| (from, to) == (one, other) || (from, to) == (other, one))
    }

    fn links(&self, wanted: impl Fn(usize, usize) -> bool) -> Links {
        let all = 1..=self.members;
        all.clone()
            .flat_map(|from| all.clone().map(move |to| (from, to)))
            .filter(|(from, to)| from != to && wanted(*from, *to))
            .collect()
    }
}
