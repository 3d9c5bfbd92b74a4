//! The term floor: no term of the old cluster, and no fence that it raised, is above it.
//!
//! The new cluster begins [`TERM_LEAP`] above the floor. `auto` asks the verifier of each route where its
//! fence stands; one that can't be asked might stand anywhere, so then there is no `auto`. A number is taken at
//! its word: it is what another node's `auto` has found, or what somebody has looked up. A verifier that
//! stands higher proves it wrong.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::future::join_all;
use thiserror::Error;

use crate::config::node::NodeConfig;
use crate::fencing::mode::FenceMode;
use crate::ids::Term;
use crate::proxy::raise::look;
use crate::proxy::route::Route;
use crate::proxy::upstream::Backend;
use crate::raft::HIGHEST_TERM_JUMP;
use crate::transport::credentials::Credentials;
use crate::transport::tls;

/// How far the first term of a new cluster is ahead of all of the old one's (DR-1). Further than a node
/// lets itself be taken by a message (E2): whoever is left of the old cluster never hears of the new
/// one's terms, and so can't get ahead of them.
pub const TERM_LEAP: u64 = 2_000_000_000_000;

const _: () = assert!(TERM_LEAP > HIGHEST_TERM_JUMP, "the old cluster must not follow");

/// The highest floor. Two hundred foundings are below; a verifier takes twice as much.
const HIGHEST: Term = Term(400_000_000_000_000);

/// What `--term-floor` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Ask the verifiers.
    Auto,
    /// This term.
    At(Term),
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            number => match number.parse() {
                Ok(term) => Ok(Self::At(Term(term))),
                Err(_) => Err("take auto, or a term: a whole number".into()),
            },
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::At(term) => term.fmt(f),
        }
    }
}

/// What is known of one route's fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The route.
    pub route: String,
    /// Where its fence stands.
    pub fence: FenceSeen,
}

/// Where a fence stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FenceSeen {
    /// At this term; zero when it was never raised.
    At(Term),
    /// The verifier does not tell, and why.
    Unknown(String),
    /// There is no verifier.
    None,
}

/// Why there is no floor.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FloorError {
    /// `auto`, and a verifier that does not tell.
    #[error(
        "the fence of route {route} can't be read: {cause}; start its verifier and try again, or give --term-floor N \
         with a term that no fence is above (what `GET /.well-known/termgate/fence` showed last, or the highest \
         term in the backend's own records)"
    )]
    Unread {
        /// The route.
        route: String,
        /// Why.
        cause: String,
    },
    /// A number that is too low.
    #[error(
        "the fence of route {route} stands at {stands}, above --term-floor {wished}: a leader below it could not \
         write; give --term-floor auto for a new cluster; if this cluster was restored before and runs, add this node \
         to it instead"
    )]
    TooLow {
        /// The route.
        route: String,
        /// Where its fence stands.
        stands: Term,
        /// What was given.
        wished: Term,
    },
    /// A number that no cluster ever gets to.
    #[error(
        "a term floor of {0} leaves no terms to lead in (at most {HIGHEST}); if a fence stands that high it was forged: \
         reset its verifier first"
    )]
    TooHigh(Term),
    /// The certificates that the verifiers ask for.
    #[error("the fences can't be read: {0}")]
    Certificates(String),
    /// A backend that can't be spoken to.
    #[error("route {route}: {cause}")]
    Backend {
        /// The route.
        route: String,
        /// What is wrong with it.
        cause: String,
    },
}

/// Asks the verifiers of all routes, at once.
///
/// # Errors
/// When this node's own settings don't let it ask.
pub async fn ask(config: &NodeConfig) -> Result<Vec<Seen>, FloorError> {
    let refused = |e: &dyn fmt::Display| FloorError::Certificates(e.to_string());
    let files = &config.tls;
    let credentials = Credentials::load(&files.ca, &files.cert, &files.key).map_err(|e| refused(&e))?;
    let tls = Arc::new(tls::tcp_client(&credentials).map_err(|e| refused(&e))?);
    let backend = |route: &Route| {
        let backend = Backend::new(&route.backend, Some(&tls));
        backend.map_err(|cause| FloorError::Backend { route: route.name.clone(), cause })
    };
    let asked: Result<Vec<(&Route, Backend)>, FloorError> =
        config.routes.iter().map(|route| Ok((route, backend(route)?))).collect();
    let seen = asked?.into_iter().map(async |(route, backend)| {
        let fence = match route.fence {
            FenceMode::Drain => FenceSeen::None,
            FenceMode::Enforced | FenceMode::Implicit => {
                look(&backend, &route.name, config.id()).await.map_or_else(FenceSeen::Unknown, FenceSeen::At)
            }
        };
        Seen { route: route.name.clone(), fence }
    });
    Ok(join_all(seen).await)
}

/// DR-1: the floor, given the highest term that the old state shows.
pub fn decide(wish: Wish, known: Term, seen: &[Seen]) -> Result<Term, FloorError> {
    let mut floor = match wish {
        Wish::Auto => known,
        Wish::At(term) => known.max(term),
    };
    for Seen { route, fence } in seen {
        match (fence, wish) {
            (FenceSeen::Unknown(cause), Wish::Auto) => {
                return Err(FloorError::Unread { route: route.clone(), cause: cause.clone() });
            }
            (FenceSeen::At(stands), Wish::At(_)) if *stands > floor => {
                let (route, stands, wished) = (route.clone(), *stands, floor);
                return Err(FloorError::TooLow { route, stands, wished });
            }
            (FenceSeen::At(stands), _) => floor = floor.max(*stands),
            (FenceSeen::Unknown(_) | FenceSeen::None, _) => {}
        }
    }
    if floor > HIGHEST { Err(FloorError::TooHigh(floor)) } else { Ok(floor) }
}

/// DR-1: every term of the new cluster is above this one.
pub const fn begin(floor: Term) -> Term {
    Term(floor.0.saturating_add(TERM_LEAP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64) -> Seen {
        Seen { route: "orders".into(), fence: FenceSeen::At(Term(term)) }
    }

    fn unknown() -> Seen {
        Seen { route: "bills".into(), fence: FenceSeen::Unknown("connection refused".into()) }
    }

    fn drain() -> Seen {
        Seen { route: "mail".into(), fence: FenceSeen::None }
    }

    fn auto(known: u64, seen: &[Seen]) -> Result<Term, FloorError> {
        decide(Wish::Auto, Term(known), seen)
    }

    fn given(floor: u64, known: u64, seen: &[Seen]) -> Result<Term, FloorError> {
        decide(Wish::At(Term(floor)), Term(known), seen)
    }

    /// DR-1.
    #[test]
    fn auto_is_the_highest_of_all_fences_and_known_terms() {
        assert_eq!(auto(3, &[at(57), at(12), drain()]), Ok(Term(57)));
        assert_eq!(auto(60, &[at(57)]), Ok(Term(60)));
        assert_eq!(auto(3, &[]), Ok(Term(3)));
        assert_eq!(begin(Term(57)), Term(2_000_000_000_057));
    }

    /// DR-1: a verifier that is silent may have seen anything.
    #[test]
    fn auto_guesses_nothing() {
        let error = auto(3, &[at(57), unknown()]).unwrap_err();
        assert!(matches!(error, FloorError::Unread { .. }));
        let text = error.to_string();
        assert!(text.contains("bills") && text.contains("connection refused"), "{text}");
        assert!(text.contains("--term-floor N"), "{text}");
    }

    /// DR-1: what one node's `auto` has found is the same number at the others.
    #[test]
    fn a_number_is_taken_as_it_is_unless_it_is_known_to_be_too_low() {
        let found = auto(3, &[at(57)]).unwrap();
        assert_eq!(given(found.0, 3, &[at(57)]), Ok(found));
        assert_eq!(given(100, 3, &[at(57), unknown()]), Ok(Term(100)));
        assert_eq!(given(57, 3, &[at(57)]), Ok(Term(57)));
        assert_eq!(given(1, 60, &[at(57)]), Ok(Term(60)));
        let text = given(56, 3, &[at(57)]).unwrap_err().to_string();
        assert!(text.contains("stands at 57, above --term-floor 56"), "{text}");
    }

    #[test]
    fn a_floor_without_terms_above_it_is_refused() {
        assert_eq!(given(HIGHEST.0, 1, &[]), Ok(HIGHEST));
        assert!(matches!(given(HIGHEST.0 + 1, 1, &[]), Err(FloorError::TooHigh(_))));
        assert!(matches!(auto(1, &[at(999_999_999_999_999)]), Err(FloorError::TooHigh(_))));
    }

    #[test]
    fn a_wish_is_auto_or_a_number() {
        assert_eq!("auto".parse(), Ok(Wish::Auto));
        assert_eq!("57".parse(), Ok(Wish::At(Term(57))));
        for wrong in ["", "Auto", "-1", "5.7"] {
            assert!(wrong.parse::<Wish>().is_err(), "{wrong}");
        }
    }
}
