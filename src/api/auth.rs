//! The bearer token of calls that change something, or hand all of the state out (RFC 6750).

use std::fmt;

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// The secret of `[api.auth]`. It is never shown, not even in a debug print.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes the secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret, for whoever calls with it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether the request carries this token.
    pub fn admits(&self, fields: &HeaderMap) -> bool {
        let mut given = fields.get_all(AUTHORIZATION).iter();
        match (given.next(), given.next()) {
            (Some(one), None) => bearer(one.as_bytes()).is_some_and(|secret| same(secret, self.0.as_bytes())),
            _ => false,
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What follows `Bearer `, in any letter case (RFC 9110, section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| rest.trim_ascii())
}

/// Compares without ending early, so that the time it takes does not tell how much was right.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |all, (x, y)| all | (x ^ y));
    std::hint::black_box(differences) == 0 && a.len() == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(values: &[&str]) -> bool {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(AUTHORIZATION, value.parse().unwrap());
        }
        Token::new("correct horse").admits(&fields)
    }

    #[test]
    fn only_the_whole_token_is_admitted() {
        assert!(admits(&["Bearer correct horse"]));
        assert!(admits(&["bearer  correct horse"]));
        let wrong =
            ["Bearer correct hors", "Bearer correct horses", "Bearer", "Bearer ", "", "correct horse"];
        for value in wrong {
            assert!(!admits(&[value]), "{value:?}");
        }
        assert!(!admits(&[]));
        assert!(!admits(&["Basic correct horse"]));
    }

    #[test]
    fn two_tokens_are_none() {
        assert!(!admits(&["Bearer correct horse", "Bearer correct horse"]));
    }

    #[test]
    fn a_token_is_never_printed() {
        assert_eq!(format!("{:?}", Token::new("secret")), "Token(…)");
    }
}
