//! Everything that is wrong with the files at once, for whoever mends them. [`Credentials::load`] stops
//! at the first, as a start may; both read and judge by the same functions.
//!
//! [`Credentials::load`]: super::Credentials::load

use std::path::Path;

use super::{Leaf, Paths, TlsError, certified_key, check_chain, read_key, read_roots};
use crate::transport::identity::Identity;

/// One of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The authorities.
    Ca,
    /// The certificate.
    Cert,
    /// Its key.
    Key,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Inspection {
    /// What is wrong, and the file to mend.
    pub faults: Vec<(Part, TlsError)>,
    /// Whom the certificate names.
    pub identity: Option<Identity>,
}

impl Inspection {
    /// Reads the files that are given; each is judged alone, and then those that are good together.
    pub fn of(ca: Option<&Path>, cert: Option<&Path>, key: Option<&Path>) -> Self {
        let mut found = Self::default();
        let name = |path: Option<&Path>| path.map(Path::to_owned).unwrap_or_default();
        let paths = Paths { ca: name(ca), cert: name(cert), key: name(key) };
        let roots = ca.and_then(|ca| found.note(Part::Ca, read_roots(ca)));
        let leaf = cert.and_then(|cert| found.note(Part::Cert, Leaf::read(cert)));
        let key = key.and_then(|key| found.note(Part::Key, read_key(key)));
        let Some(Leaf { chain, identity, not_before, .. }) = leaf else { return found };
        found.identity = Some(identity);
        if let Some(roots) = roots {
            found.note(Part::Cert, check_chain(&paths, &roots, &chain, not_before));
        }
        if let Some(key) = key {
            found.note(Part::Key, certified_key(&paths, chain, key));
        }
        found
    }

    fn note<T>(&mut self, part: Part, result: Result<T, TlsError>) -> Option<T> {
        result.map_err(|fault| self.faults.push((part, fault))).ok()
    }
}
