//! The one-time token with which a machine joins (decision 0009).
//!
//! ```text
//! termgate-join-1.  base64url( id:u64be  secret:32  authority:32  cluster  crc32:u32be )
//! ```
//!
//! The secret is the seed of an Ed25519 key. The machine signs its request with that key and never sends the
//! token; the cluster keeps the public half only, so not even the disk of a node is enough to join with. The
//! authority's fingerprint is what the machine judges the answer by. The checksum is there for whoever copies
//! half of a line.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::{SystemRandom, generate};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::ids::NodeId;
use crate::transport::identity::is_valid_name;

/// What a token begins with: what it is, and its version.
const PREFIX: &str = "termgate-join-1.";
/// In front of everything that is signed with one.
const REQUEST: &[u8] = b"termgate join request 1\n";

/// What an invited machine is given. Whoever has it can join, once.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Which cluster.
    pub cluster: String,
    /// Under which id.
    pub node: NodeId,
    /// The authority's fingerprint.
    pub authority: [u8; 32],
    secret: [u8; 32],
}

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a whole token; copy all of what `termgate member invite` printed, from {PREFIX} on")]
pub struct NoToken;

impl Token {
    /// A new one; `None` when the system has no random numbers.
    pub fn draw(cluster: &str, node: NodeId, authority: [u8; 32]) -> Option<Self> {
        let secret = generate(&SystemRandom::new()).ok()?.expose();
        Some(Self { cluster: cluster.to_owned(), node, authority, secret })
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, NoToken> {
        let bytes = BASE64.decode(text.trim().strip_prefix(PREFIX).ok_or(NoToken)?).map_err(|_| NoToken)?;
        let (content, sum) = bytes.split_last_chunk().ok_or(NoToken)?;
        let (id, rest) = content.split_first_chunk().ok_or(NoToken)?;
        let (secret, rest) = rest.split_first_chunk().ok_or(NoToken)?;
        let (authority, cluster) = rest.split_first_chunk().ok_or(NoToken)?;
        let cluster = std::str::from_utf8(cluster).ok().filter(|name| is_valid_name(name)).ok_or(NoToken)?;
        if crc32fast::hash(content) != u32::from_be_bytes(*sum) {
            return Err(NoToken);
        }
        let node = NodeId(u64::from_be_bytes(*id));
        Ok(Self { cluster: cluster.to_owned(), node, authority: *authority, secret: *secret })
    }

    /// The text form: the secret is in it.
    pub fn reveal(&self) -> String {
        let mut bytes = self.node.0.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.authority);
        bytes.extend_from_slice(self.cluster.as_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
        format!("{PREFIX}{}", BASE64.encode(bytes))
    }

    /// What verifies its signatures.
    pub fn verifier(&self) -> [u8; 32] {
        self.key().public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes")
    }

    /// Signs a request, as its field carries it.
    pub fn sign(&self, request: &[u8]) -> String {
        armour(self.key().sign(&[REQUEST, request].concat()).as_ref())
    }

    fn key(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.secret).expect("every seed of 32 bytes is one")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Whether whoever holds the token with this verifier has signed the request.
pub fn is_signed(verifier: &[u8; 32], request: &[u8], signature: &str) -> bool {
    let key = UnparsedPublicKey::new(&ED25519, verifier);
    let signature = disarm(signature).unwrap_or_default();
    key.verify(&[REQUEST, request].concat(), &signature).is_ok()
}

/// Bytes as a field carries them.
pub fn armour(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// And back.
pub fn disarm(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    fn token() -> Token {
        Token::draw("orders", NodeId(4), [7; 32]).unwrap()
    }

    #[test]
    fn a_token_is_read_as_it_was_written_and_no_other_way() {
        let token = token();
        let text = token.reveal();
        assert_eq!(Token::parse(&format!(" {text}\n")).unwrap(), token);
        for end in 0..text.len() {
            assert_eq!(Token::parse(&text[..end]), Err(NoToken), "{end} characters of it");
        }
        let other = text.replacen(PREFIX, "termgate-join-2.", 1);
        assert_eq!(Token::parse(&other), Err(NoToken));
    }

    #[test]
    fn only_the_holder_of_the_token_signs() {
        let token = token();
        let signature = token.sign(b"request");
        assert!(is_signed(&token.verifier(), b"request", &signature));
        assert!(!is_signed(&token.verifier(), b"Request", &signature), "another request");
        assert!(!is_signed(&self::token().verifier(), b"request", &signature), "another token");
        for wrong in ["", "?", &signature[1..]] {
            assert!(!is_signed(&token.verifier(), b"request", wrong), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_never_printed() {
        let token = token();
        let shown = format!("{token:?}");
        assert!(shown.contains("orders") && !shown.contains("secret"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Token::parse(&text);
            let _ = Token::parse(&format!("{PREFIX}{}", BASE64.encode(bytes)));
            is_signed(&[1; 32], b"", &text);
        }
    }
}
