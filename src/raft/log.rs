//! The log in memory: terms, positions, memberships, and which of it is already on disk.
//!
//! ```text
//!   base        entries                          writing: what the disk still owes
//!   |           |                                |
//!   0@0 | 1@1  2@1  3@2  4@2  5@3  6@3           [(4, io 7), (6, io 9)]
//!                    ^ durable_index             4 and 5 become durable with io 7, 6 with io 9
//! ```
//!
//! Completions are a watermark (C12). A completion counts for an entry only while the write that
//! it names is still the last one that covers the entry: cutting the log forgets the writes of the
//! cut part, so an old completion can't stand for new entries at the same place (C2, C6).
//!
//! No disk, no messages. `base` is where a compacted log begins: the last entry that is not there any
//! more, and known to be committed.

use std::collections::VecDeque;

use crate::ids::{IoSeq, LogId, LogIndex, Term};
use crate::raft::entry::{Durable, Entry, Membership, Payload};

/// The log of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Log {
    base: LogId,
    entries: Vec<Entry>,
    /// The membership at `base`, then one for each membership entry, in order. Never empty.
    memberships: Vec<(LogIndex, Membership)>,
    /// Writes that are under way: the first index each covers, both ascending.
    writing: VecDeque<(LogIndex, IoSeq)>,
}

impl Log {
    /// The log as a start finds it: all of it is durable.
    pub fn new(durable: &Durable) -> Self {
        let mut log = Self {
            base: durable.base,
            entries: Vec::new(),
            memberships: vec![(durable.base.index, durable.membership.clone())],
            writing: VecDeque::new(),
        };
        durable.log.iter().cloned().for_each(|entry| log.push(entry));
        log
    }

    /// Where the log begins.
    pub const fn base(&self) -> LogId {
        self.base
    }

    /// The last entry, durable or not.
    pub fn last(&self) -> LogId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// The membership in force: of the last membership entry, committed or not.
    pub fn membership(&self) -> &Membership {
        &self.memberships[self.memberships.len() - 1].1
    }

    /// Where the membership in force stands: its entry, or the base.
    pub fn membership_index(&self) -> LogIndex {
        self.memberships[self.memberships.len() - 1].0
    }

    /// Every membership from the base on.
    pub fn memberships(&self) -> impl Iterator<Item = &Membership> {
        self.memberships.iter().map(|(_, membership)| membership)
    }

    /// The term of the entry at `index`; `None` outside the log.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.entries.get(self.offset(index)?).map(|entry| entry.id.term)
    }

    /// Whether the log holds exactly this entry.
    pub fn holds(&self, id: LogId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The position of `index` in `entries`, which may lie behind the end.
    fn offset(&self, index: LogIndex) -> Option<usize> {
        let distance = index.0.checked_sub(self.base.index.0)?.checked_sub(1)?;
        usize::try_from(distance).ok()
    }

    /// The last entry at or before `at` whose term is not above `at`'s: where two logs that differ
    /// at `at` may still be equal. Skips whole terms instead of single entries (thesis 3.5).
    pub fn last_possible_match(&self, at: LogId) -> LogId {
        let not_above = self.entries.partition_point(|entry| entry.id.term <= at.term);
        let reach = self.offset(at.index).map_or(0, |offset| offset.saturating_add(1));
        match not_above.min(reach).checked_sub(1) {
            Some(offset) => self.entries.get(offset).map_or(self.last(), |entry| entry.id),
            None => self.base,
        }
    }

    /// The entries from `first` on, at least one if there is any, at most about `max_bytes`.
    pub fn batch(&self, first: LogIndex, max_bytes: usize) -> Vec<Entry> {
        let Some(rest) = self.offset(first).and_then(|offset| self.entries.get(offset..)) else {
            return Vec::new();
        };
        let mut bytes = 0;
        let fits = rest.iter().take_while(|entry| {
            let first = bytes == 0;
            bytes += entry.size();
            first || bytes <= max_bytes
        });
        fits.cloned().collect()
    }

    /// The entries after `after`, up to and including `last`.
    pub fn range(&self, after: LogIndex, last: LogIndex) -> Vec<Entry> {
        self.between(after, last).to_vec()
    }

    fn between(&self, after: LogIndex, last: LogIndex) -> &[Entry] {
        let from = self.offset(after.next()).unwrap_or(0).min(self.entries.len());
        let to = self.offset(last.next()).unwrap_or(0).clamp(from, self.entries.len());
        &self.entries[from..to]
    }

    /// The membership after `index`, which is inside the log or its base.
    pub fn membership_at(&self, index: LogIndex) -> &Membership {
        let known = self.memberships.partition_point(|(at, _)| *at <= index);
        &self.memberships[known.max(1) - 1].1
    }

    /// Every membership from the base on that was in force at `index` or before.
    pub fn memberships_until(&self, index: LogIndex) -> impl Iterator<Item = &Membership> {
        self.memberships.iter().take_while(move |(at, _)| *at <= index).map(|(_, membership)| membership)
    }

    /// That one, and all after it.
    pub fn memberships_since(&self, index: LogIndex) -> impl Iterator<Item = &Membership> {
        let known = self.memberships.partition_point(|(at, _)| *at <= index);
        self.memberships.iter().skip(known.max(1) - 1).map(|(_, membership)| membership)
    }

    /// Cuts the log before `from`, if given, and appends `entries`; `io` is the write that makes
    /// it durable. Memberships in the cut part are forgotten with it (C13).
    pub fn splice(&mut self, from: Option<LogIndex>, entries: &[Entry], io: IoSeq) {
        if let Some(from) = from {
            assert!(from > self.base.index, "the log is never cut below its base");
            let keep = self.offset(from).unwrap_or(0).min(self.entries.len());
            self.entries.truncate(keep);
            self.memberships.retain(|(at, _)| *at < from);
            self.writing.retain(|(first, _)| *first < from);
        }
        let Some(first) = entries.first() else { return };
        self.writing.push_back((first.id.index, io));
        entries.iter().cloned().for_each(|entry| self.push(entry));
    }

    fn push(&mut self, entry: Entry) {
        let last = self.last();
        assert_eq!(entry.id.index, last.index.next(), "the log has no gaps");
        assert!(entry.id.term >= last.term, "terms in a log never fall");
        if let Payload::Membership(membership) = &entry.payload {
            self.memberships.push((entry.id.index, membership.clone()));
        }
        self.entries.push(entry);
    }

    /// Begins the log after `base`, which it holds. The membership in force at `base` goes with it. What the
    /// disk owes, it owes as before: the writes of entries before `base` come before the one of this.
    pub fn compact(&mut self, base: LogId) {
        assert!(self.holds(base), "a log is compacted at an entry of its own");
        let gone = self.offset(base.index.next()).unwrap_or(0).min(self.entries.len());
        self.entries.drain(..gone);
        let at_base = self.memberships.partition_point(|(at, _)| *at <= base.index);
        self.memberships.drain(..at_base - 1);
        self.base = base;
    }

    /// Begins the log anew after `base`, without any entry. `io` is the write that makes this durable.
    pub fn reset(&mut self, base: LogId, membership: Membership, io: IoSeq) {
        self.base = base;
        self.entries.clear();
        self.memberships = vec![(base.index, membership)];
        self.writing = VecDeque::from([(base.index, io)]);
    }

    /// The place before as many of the entries up to `last` as fit into both limits.
    pub fn back_from(&self, last: LogIndex, max_entries: u64, max_bytes: usize) -> LogIndex {
        let mut bytes = 0;
        let fits = self.between(self.base.index, last).iter().rev().take_while(|entry| {
            bytes += entry.size();
            bytes <= max_bytes
        });
        LogIndex(last.0 - (fits.count() as u64).min(max_entries))
    }

    /// The size of the entries after `after`, up to and including `last`.
    pub fn size(&self, after: LogIndex, last: LogIndex) -> usize {
        self.between(after, last).iter().map(Entry::size).sum()
    }

    /// Everything up to `io` is on disk.
    pub fn persisted(&mut self, io: IoSeq) {
        self.writing.retain(|(_, writing)| *writing > io);
    }

    /// Everything up to here is on this node's disk.
    pub fn durable_index(&self) -> LogIndex {
        match self.writing.front() {
            Some((first, _)) => first.prev().unwrap_or(LogIndex::ZERO),
            None => self.last().index,
        }
    }

    /// How many entries are in memory.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// What must complete before everything up to `index` is durable; `None` when it is.
    pub fn write_covering(&self, index: LogIndex) -> Option<IoSeq> {
        self.writing.iter().rev().find(|(first, _)| *first <= index).map(|(_, io)| *io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    fn entry(term: u64, index: u64) -> Entry {
        let id = LogId::new(Term(term), LogIndex(index));
        Entry { id, payload: Payload::NoOp { leader: NodeId(1) } }
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(Term(term), LogIndex(index))
    }

    /// One entry per term given, all durable.
    fn log(terms: &[u64]) -> Log {
        let log = (1u64..).zip(terms).map(|(index, term)| entry(*term, index)).collect();
        Log::new(&Durable { log, ..Durable::default() })
    }

    #[test]
    fn conflict_search_skips_whole_terms() {
        let log = log(&[1, 1, 1, 4, 4, 6]);
        assert_eq!(log.last_possible_match(id(3, 6)), id(1, 3));
        assert_eq!(log.last_possible_match(id(5, 6)), id(4, 5));
        assert_eq!(log.last_possible_match(id(5, 4)), id(4, 4));
        assert_eq!(log.last_possible_match(id(9, 99)), id(6, 6));
        assert_eq!(log.last_possible_match(id(0, 6)), LogId::ZERO);
        assert_eq!(log.last_possible_match(id(u64::MAX, u64::MAX)), id(6, 6));
    }

    /// C2: the same index, overwritten while its first write is under way.
    #[test]
    fn append_aba_an_old_completion_does_not_stand_for_new_entries() {
        let mut log = log(&[1]);
        log.splice(None, &[entry(1, 2)], IoSeq(1));
        log.splice(Some(LogIndex(2)), &[entry(2, 2)], IoSeq(2));
        log.persisted(IoSeq(1));
        assert_eq!(log.durable_index(), LogIndex(1));
        assert_eq!(log.write_covering(LogIndex(2)), Some(IoSeq(2)));
        log.persisted(IoSeq(2));
        assert_eq!(log.durable_index(), LogIndex(2));
    }

    #[test]
    fn cutting_below_a_write_under_way_leaves_nothing_of_it() {
        let mut log = log(&[1, 1, 1, 1]);
        log.splice(None, &[entry(1, 5)], IoSeq(1));
        log.splice(Some(LogIndex(3)), &[entry(2, 3), entry(2, 4), entry(2, 5)], IoSeq(2));
        assert_eq!(log.durable_index(), LogIndex(2));
    }

    #[test]
    fn part_of_a_write_that_was_cut_still_counts() {
        let mut log = log(&[]);
        log.splice(None, &[entry(1, 1), entry(1, 2)], IoSeq(1));
        log.splice(Some(LogIndex(2)), &[entry(2, 2)], IoSeq(2));
        assert_eq!(log.durable_index(), LogIndex(0));
        log.persisted(IoSeq(1));
        assert_eq!(log.durable_index(), LogIndex(1));
    }

    /// C12: a newer completion stands for the older ones, and an older one that is late for nothing.
    #[test]
    fn io_completion_reorder_the_watermark_covers() {
        let mut log = log(&[]);
        log.splice(None, &[entry(1, 1)], IoSeq(1));
        log.splice(None, &[entry(1, 2)], IoSeq(2));
        log.persisted(IoSeq(2));
        assert_eq!(log.durable_index(), LogIndex(2));
        log.persisted(IoSeq(1));
        assert_eq!(log.durable_index(), LogIndex(2));
    }

    /// C13.
    #[test]
    fn truncate_restores_config() {
        let mut log = log(&[1]);
        let changed = Membership::of_voters([NodeId(7)]);
        let payload = Payload::Membership(changed.clone());
        log.splice(None, &[Entry { id: id(1, 2), payload }], IoSeq(1));
        assert_eq!(log.membership(), &changed);
        log.splice(Some(LogIndex(2)), &[entry(2, 2)], IoSeq(2));
        assert_eq!(log.membership(), &Membership::default());
    }

    /// A snapshot arrives for entries that are still on their way to the disk, and so are those behind it.
    #[test]
    fn compaction_ahead_of_the_disk_forgets_no_write() {
        let mut log = log(&[1]);
        for index in 2..=5 {
            log.splice(None, &[entry(1, index)], IoSeq(index));
        }
        log.compact(id(1, 4));
        assert_eq!((log.durable_index(), log.len()), (LogIndex(1), 1));
        assert_eq!(log.write_covering(LogIndex(5)), Some(IoSeq(5)));
        log.persisted(IoSeq(4));
        assert_eq!(log.durable_index(), LogIndex(4));
        log.persisted(IoSeq(5));
        assert_eq!(log.durable_index(), LogIndex(5));
    }

    /// N4: a membership that was never committed does not outlive the log it stood in.
    #[test]
    fn a_snapshot_in_place_of_the_log_brings_its_own_membership() {
        let mut log = log(&[1]);
        let uncommitted = Membership::of_voters([NodeId(7)]);
        let payload = Payload::Membership(uncommitted);
        log.splice(None, &[Entry { id: id(1, 2), payload }], IoSeq(1));
        let of_snapshot = Membership::of_voters([NodeId(1), NodeId(2)]);
        log.reset(id(3, 9), of_snapshot.clone(), IoSeq(2));
        assert_eq!(log.membership(), &of_snapshot);
        assert_eq!((log.last(), log.durable_index()), (id(3, 9), LogIndex(8)));
        log.persisted(IoSeq(2));
        assert_eq!(log.durable_index(), LogIndex(9));
    }

    /// N4.
    #[test]
    fn compaction_keeps_the_membership_in_force_at_the_new_beginning() {
        let mut log = log(&[1, 1]);
        let (second, third) = (Membership::of_voters([NodeId(2)]), Membership::of_voters([NodeId(3)]));
        for (index, membership) in [(3, &second), (5, &third)] {
            log.splice(
                None,
                &[Entry { id: id(1, index), payload: Payload::Membership(membership.clone()) }],
                IoSeq(0),
            );
            log.splice(None, &[entry(1, index + 1)], IoSeq(0));
        }
        log.persisted(IoSeq(0));
        log.compact(id(1, 4));
        assert_eq!(log.membership_at(LogIndex(4)), &second);
        assert_eq!(log.membership(), &third);
        log.splice(Some(LogIndex(5)), &[], IoSeq(1));
        assert_eq!(log.membership(), &second);
        assert_eq!((log.base(), log.len()), (id(1, 4), 0));
    }

    #[test]
    fn what_is_kept_behind_a_snapshot_is_bounded_in_entries_and_in_bytes() {
        let log = log(&[1; 10]);
        assert_eq!(log.back_from(LogIndex(8), 3, usize::MAX), LogIndex(5));
        assert_eq!(log.back_from(LogIndex(8), 100, 2 * 32), LogIndex(6));
        assert_eq!(log.back_from(LogIndex(8), 100, usize::MAX), LogIndex(0));
        assert_eq!(log.back_from(LogIndex(8), 0, 0), LogIndex(8));
    }

    #[test]
    fn a_batch_holds_at_least_one_entry_and_respects_the_limit() {
        let log = log(&[1, 1, 1, 1]);
        assert_eq!(log.batch(LogIndex(2), 0).len(), 1);
        assert_eq!(log.batch(LogIndex(2), 64).len(), 2);
        assert_eq!(log.batch(LogIndex(2), 1024).len(), 3);
        assert_eq!(log.batch(LogIndex(5), 1024).len(), 0);
        assert_eq!(log.batch(LogIndex(u64::MAX), 1024).len(), 0);
    }

    #[test]
    fn a_compacted_log_knows_its_base() {
        let base = id(3, 10);
        let log = Log::new(&Durable { base, log: vec![entry(4, 11)], ..Durable::default() });
        assert_eq!(log.term_at(LogIndex(10)), Some(Term(3)));
        assert_eq!(log.term_at(LogIndex(9)), None);
        assert_eq!(log.term_at(LogIndex(11)), Some(Term(4)));
        assert_eq!(log.last_possible_match(id(3, 11)), base);
        assert_eq!(log.range(LogIndex(10), LogIndex(11)), vec![entry(4, 11)]);
    }
}
