//! Who may be in a handshake at once. A handshake costs two signatures on the thread that also sends
//! heartbeats, and a source that goes silent in the middle of one keeps its place for seconds. So
//! places are never shared between members and the rest of the world: each address of a member has
//! its own, and everybody else together has a few, and fewer for one source.
//!
//! The same few bound the rate: a stranger's place is free again only a while after it was taken,
//! however soon the handshake was over. Whoever turns out to be a member gives it back at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock;
use crate::time::{Duration, Instant};

/// Handshakes at once from one address of a member. It needs one; nodes that share a machine, and the
/// lanes of the hop, need some more.
const MEMBER_SLOTS: usize = 16;
/// From so many on, a member's address must show that it can receive (RFC 9000, 8.1.2): it may be
/// forged, and what is forged must not take the rest.
const MEMBER_RETRY_ABOVE: usize = 8;
/// Handshakes at once from all other addresses.
const STRANGER_SLOTS: usize = 16;
/// And from one of them: four such sources must act together to keep a fifth out.
const STRANGER_SLOTS_PER_SOURCE: usize = 4;
/// A stranger's place is taken for at least this long: 64 handshakes a second in all, 16 from one
/// source. That is a few per cent of a core.
const STRANGER_PACE: Duration = Duration::from_millis(250);

/// What a source's handshake gets.
#[derive(Debug)]
pub(crate) enum Place {
    /// It may begin.
    Free(Slot),
    /// The source must first show that it can receive.
    Retry,
    /// None is free; the source asks again by itself.
    Taken,
}

/// The places of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// By address of a member. Addresses without a handshake are not kept.
    members: BTreeMap<IpAddr, usize>,
    strangers: Vec<Stranger>,
    last: u64,
}

#[derive(Debug)]
struct Stranger {
    id: u64,
    source: IpAddr,
    since: Instant,
    over: bool,
}

/// A place in use. Dropped, it is given back; a stranger's after [`STRANGER_PACE`].
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    holder: Holder,
}

#[derive(Debug)]
enum Holder {
    Member(IpAddr),
    Stranger(u64),
}

impl Slots {
    /// A place for a handshake of `source`, which `is_member` says is an address of a member, and
    /// `validated` that it can receive.
    pub(crate) fn take(self: &Arc<Self>, source: IpAddr, is_member: bool, validated: bool) -> Place {
        let mut taken = self.taken();
        let holder = if is_member {
            taken.member(source.to_canonical(), validated)
        } else {
            taken.stranger(source_of(source), validated, clock::now())
        };
        match holder {
            Ok(holder) => Place::Free(Slot { slots: Arc::clone(self), holder }),
            Err(refused) => refused,
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn member(&mut self, address: IpAddr, validated: bool) -> Result<Holder, Place> {
        let taken = self.members.get(&address).copied().unwrap_or(0);
        if taken >= MEMBER_SLOTS {
            return Err(Place::Taken);
        }
        if taken >= MEMBER_RETRY_ABOVE && !validated {
            return Err(Place::Retry);
        }
        self.members.insert(address, taken + 1);
        Ok(Holder::Member(address))
    }

    fn stranger(&mut self, source: IpAddr, validated: bool, now: Instant) -> Result<Holder, Place> {
        // Before anything else: a forged address must not use up another's places.
        if !validated {
            return Err(Place::Retry);
        }
        self.strangers.retain(|stranger| !stranger.over || now.since(stranger.since) < STRANGER_PACE);
        let own = self.strangers.iter().filter(|stranger| stranger.source == source).count();
        if own >= STRANGER_SLOTS_PER_SOURCE || self.strangers.len() >= STRANGER_SLOTS {
            return Err(Place::Taken);
        }
        self.last += 1;
        self.strangers.push(Stranger { id: self.last, source, since: now, over: false });
        Ok(Holder::Stranger(self.last))
    }

    fn give_back(&mut self, holder: &Holder) {
        match holder {
            Holder::Member(address) => {
                if let Some(taken) = self.members.get_mut(address) {
                    *taken -= 1;
                    if *taken == 0 {
                        self.members.remove(address);
                    }
                }
            }
            Holder::Stranger(id) => {
                if let Some(stranger) = self.strangers.iter_mut().find(|stranger| stranger.id == *id) {
                    stranger.over = true;
                }
            }
        }
    }
}

impl Slot {
    /// The source was a member after all: its place is free at once.
    pub(crate) fn admitted(self) {
        if let Holder::Stranger(id) = self.holder {
            self.slots.taken().strangers.retain(|stranger| stranger.id != id);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.taken().give_back(&self.holder);
    }
}

/// One source, as far as an outsider can choose its address: an IPv6 host has a whole /64.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn free(found: Place) -> Option<Slot> {
        if let Place::Free(slot) = found { Some(slot) } else { None }
    }

    fn take_all(slots: &Arc<Slots>, source: IpAddr, is_member: bool) -> Vec<Slot> {
        std::iter::from_fn(|| free(slots.take(source, is_member, true))).collect()
    }

    #[test]
    fn strangers_have_few_places_and_one_source_fewer_and_members_their_own() {
        let slots = Arc::new(Slots::default());
        let one = take_all(&slots, A, false);
        assert_eq!(one.len(), STRANGER_SLOTS_PER_SOURCE);
        let rest: Vec<Slot> =
            (0..=255).flat_map(|n| take_all(&slots, IpAddr::from([198, 51, 100, n]), false)).collect();
        assert_eq!(one.len() + rest.len(), STRANGER_SLOTS);
        assert_eq!(take_all(&slots, A, true).len(), MEMBER_SLOTS, "a member waits for no stranger");
        let all = take_all(&slots, A, true);
        assert_eq!(take_all(&slots, B, true).len(), MEMBER_SLOTS, "nor for another member: {all:?}");
    }

    #[test]
    fn a_source_cannot_choose_more_places_by_choosing_addresses() {
        let slots = Arc::new(Slots::default());
        let held: Vec<Slot> = (0..100)
            .filter_map(|n| free(slots.take(format!("2001:db8:1:2::{n:x}").parse().unwrap(), false, true)))
            .collect();
        assert_eq!(held.len(), STRANGER_SLOTS_PER_SOURCE);
        assert!(free(slots.take("2001:db8:1:3::1".parse().unwrap(), false, true)).is_some());
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let members = take_all(&slots, A, true);
        assert!(free(slots.take(mapped, true, true)).is_none(), "one address in two forms: {members:?}");
    }

    #[test]
    fn a_strangers_place_is_free_again_only_after_a_while_and_a_members_at_once() {
        let mut taken = Taken::default();
        let start = Instant::ZERO + Duration::from_secs(9);
        for _ in 0..STRANGER_SLOTS_PER_SOURCE {
            let holder = taken.stranger(A, true, start).unwrap();
            taken.give_back(&holder);
        }
        let soon = start + STRANGER_PACE / 2;
        assert!(matches!(taken.stranger(A, true, soon), Err(Place::Taken)), "the pace is not kept");
        assert!(taken.stranger(A, true, start + STRANGER_PACE).is_ok());

        let slots = Arc::new(Slots::default());
        for _ in 0..10 * STRANGER_SLOTS {
            free(slots.take(A, false, true)).expect("members give back at once").admitted();
            drop(free(slots.take(B, true, true)).expect("so does a known address"));
        }
        assert!(slots.taken().members.is_empty() && slots.taken().strangers.len() <= STRANGER_SLOTS);
    }

    #[test]
    fn what_may_be_forged_takes_no_strangers_place_and_half_of_a_members() {
        let slots = Arc::new(Slots::default());
        for _ in 0..100 {
            assert!(matches!(slots.take(A, false, false), Place::Retry));
        }
        assert!(free(slots.take(A, false, true)).is_some());
        let forged: Vec<Slot> = std::iter::from_fn(|| free(slots.take(B, true, false))).take(100).collect();
        assert_eq!(forged.len(), MEMBER_RETRY_ABOVE);
        assert!(matches!(slots.take(B, true, false), Place::Retry));
        assert!(free(slots.take(B, true, true)).is_some());
    }
}
