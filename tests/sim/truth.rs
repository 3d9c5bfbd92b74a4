//! G5 as a judge: what clients of the fenced resource were told, and what its ledger says, for ever.

use std::collections::BTreeMap;

use termgate::ids::Term;

use crate::oracle::RequestId;

/// What a client was told of its write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is in the ledger, under this stamp.
    Acknowledged { term: Term, node: usize },
    /// It certainly had no effect.
    NotApplied,
    /// Nobody knows.
    Unknown,
}

#[derive(Debug, Default)]
struct Known {
    recorded: Option<(Term, usize)>,
    told: Option<Told>,
    /// The node that it was sent to ended before it answered.
    is_gone: bool,
}

/// Every write that was asked.
#[derive(Debug, Default)]
pub struct Truth {
    writes: BTreeMap<RequestId, Known>,
    open: usize,
    acknowledged: u64,
}

impl Truth {
    /// A node has taken this write from its client.
    pub fn asked(&mut self, id: RequestId) {
        self.writes.insert(id, Known::default());
        self.open += 1;
    }

    /// The ledger holds it now.
    pub fn recorded(&mut self, id: RequestId, term: Term, node: usize) -> Result<(), String> {
        let Some(known) = self.writes.get_mut(&id) else {
            return Err(format!("G5: write {id} is recorded, and nobody asked for it"));
        };
        if let Some((first, _)) = known.recorded.replace((term, node)) {
            return Err(format!("G5: write {id} is recorded twice, in {first} and in {term}"));
        }
        match known.told {
            Some(Told::NotApplied) => {
                Err(format!("G5: write {id} is recorded in {term} after it was told to have had no effect"))
            }
            Some(Told::Acknowledged { .. }) => Err(format!("G5: write {id} is recorded after its answer")),
            Some(Told::Unknown) | None => Ok(()),
        }
    }

    /// Its client was told this: once, and truly.
    pub fn told(&mut self, id: RequestId, told: Told) -> Result<(), String> {
        let Some(known) = self.writes.get_mut(&id) else { return Err(format!("G5: nobody asked for {id}")) };
        if known.is_gone || known.told.is_some() {
            return Err(format!("G5: write {id} ends twice: {known:?}, {told:?}"));
        }
        known.told = Some(told);
        self.open -= 1;
        match (told, known.recorded) {
            (Told::Acknowledged { term, node }, recorded) if recorded != Some((term, node)) => Err(format!(
                "G5: write {id} is acknowledged under {term} by {}, recorded: {recorded:?}",
                node + 1
            )),
            (Told::NotApplied, Some((term, _))) => {
                Err(format!("G5: write {id} is told to have had no effect, and is recorded in {term}"))
            }
            _ => {
                self.acknowledged += u64::from(matches!(told, Told::Acknowledged { .. }));
                Ok(())
            }
        }
    }

    /// The node that it was sent to ended; the client knows nothing.
    pub fn gone(&mut self, id: RequestId) {
        if let Some(known) = self.writes.get_mut(&id)
            && known.told.is_none()
            && !known.is_gone
        {
            known.is_gone = true;
            self.open -= 1;
        }
    }

    /// Writes whose clients still wait.
    pub const fn open(&self) -> usize {
        self.open
    }

    /// How many were acknowledged.
    pub const fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Of those told to be unknown: how many are recorded, and how many are not.
    pub fn unknown(&self) -> (u64, u64) {
        let unknown = self.writes.values().filter(|known| known.told == Some(Told::Unknown));
        unknown.fold((0, 0), |(applied, absent), known| match known.recorded {
            Some(_) => (applied + 1, absent),
            None => (applied, absent + 1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Told, Truth};
    use termgate::ids::Term;

    const ACKNOWLEDGED: Told = Told::Acknowledged { term: Term(3), node: 0 };

    fn asked() -> Truth {
        let mut truth = Truth::default();
        truth.asked(1);
        truth
    }

    #[test]
    fn what_is_told_must_be_true_then_and_ever_after() {
        let mut truth = asked();
        assert!(truth.recorded(1, Term(3), 0).is_ok());
        assert!(truth.told(1, ACKNOWLEDGED).is_ok());
        assert!(truth.told(1, ACKNOWLEDGED).is_err(), "twice");
        assert!(truth.recorded(1, Term(3), 0).is_err(), "twice");
        assert!(truth.recorded(2, Term(3), 0).is_err(), "not asked for");

        assert!(asked().told(1, ACKNOWLEDGED).is_err(), "not recorded");
        let mut truth = asked();
        assert!(truth.recorded(1, Term(4), 0).is_ok());
        assert!(truth.told(1, ACKNOWLEDGED).is_err(), "recorded under another stamp");

        let mut truth = asked();
        assert!(truth.told(1, Told::NotApplied).is_ok());
        assert!(truth.recorded(1, Term(3), 0).is_err(), "late");
        let mut truth = asked();
        assert!(truth.recorded(1, Term(3), 0).is_ok());
        assert!(truth.told(1, Told::NotApplied).is_err());

        let mut truth = asked();
        assert!(truth.told(1, Told::Unknown).is_ok());
        assert_eq!((truth.open(), truth.unknown()), (0, (0, 1)));
        assert!(truth.recorded(1, Term(3), 0).is_ok());
        assert_eq!(truth.unknown(), (1, 0));
    }
}
