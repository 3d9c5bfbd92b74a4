//! The files that a configuration names: each key of them is read here, and what it names is looked at
//! together with everything else, so that its mistakes stand in the same list.

use std::path::{Path, PathBuf};

use crate::certs::authority::Authority;
use crate::config::TlsFiles;
use crate::config::section::{Given, Section};
use crate::transport::credentials::{Inspection, Part, TlsError};
use crate::transport::identity::Identity;

/// Whether the files that a text names are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Files {
    /// They must be there and fit.
    Opened,
    /// The text is judged alone.
    Unseen,
}

/// A path.
pub(super) fn path(given: Given) -> Result<PathBuf, String> {
    given.text().map(PathBuf::from)
}

/// The token in `[api.auth] token_file`; `None` when, reported, there is none.
pub(super) fn token(auth: &Section<'_>, file: &Path) -> Option<String> {
    if auth.files() == Files::Unseen {
        return None;
    }
    match std::fs::read_to_string(file).map(|text| text.trim().to_owned()) {
        Ok(secret) if secret.is_empty() => {
            auth.error("token_file", "the file is empty; write the token into it");
            None
        }
        Ok(secret) => Some(secret),
        Err(e) => {
            auth.error("token_file", format!("{}: {e}", file.display()));
            None
        }
    }
}

/// The `[tls]` section, the same for nodes and guards but for the authority's key, which nodes `may_sign` with.
/// `objection` says what is wrong when the certificate names this identity.
pub(super) fn tls(
    root: &mut Section<'_>,
    name: &str,
    may_sign: bool,
    objection: impl FnOnce(&Identity) -> Option<String>,
) -> Option<TlsFiles> {
    let mut tls = root.section("tls");
    let ca = tls.required("ca", "\"certs/ca.pem\"", path);
    let cert = tls.required("cert", &format!("\"certs/{name}.pem\""), path);
    let key = tls.required("key", &format!("\"certs/{name}.key\""), path);
    let ca_key = if may_sign { tls.optional("ca_key", path) } else { None };
    if tls.files() == Files::Opened {
        if let (Some(ca), Some(ca_key)) = (&ca, &ca_key)
            && let Err(fault) = Authority::open_to_invite(ca, ca_key)
        {
            tls.error("ca_key", fault.to_string());
        }
        let found = Inspection::of(ca.as_deref(), cert.as_deref(), key.as_deref());
        for (part, fault) in &found.faults {
            tls.error(key_of(*part), in_words(fault));
        }
        if let Some(text) = found.identity.as_ref().and_then(objection) {
            tls.error("cert", text);
        }
    }
    tls.finish();
    Some(TlsFiles { ca: ca?, cert: cert?, key: key?, ca_key })
}

const fn key_of(part: Part) -> &'static str {
    match part {
        Part::Ca => "ca",
        Part::Cert => "cert",
        Part::Key => "key",
    }
}

fn in_words(fault: &TlsError) -> String {
    match fault {
        TlsError::Read { path, source } => {
            let mend = "make it with `termgate certs init` and `termgate certs issue`";
            format!("{}: {source}; {mend}", path.display())
        }
        other => other.to_string(),
    }
}
