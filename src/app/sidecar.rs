//! `termgate guard`, and the demo backend of `termgate dev`: one listener each, until a signal.

use std::net::SocketAddr;
use std::path::Path;

use crate::app::reload;
use crate::app::signals::{asked_to_end, end_with_parent};
use crate::config;
use crate::demo::Ledger;
use crate::guard::Guard;
use crate::metrics::Metrics;
use crate::transport::credentials::Credentials;

/// Runs a guard until it is asked to end.
pub async fn guard(settings: config::guard::GuardConfig) -> Result<(), Box<dyn std::error::Error>> {
    end_with_parent();
    let metrics = Metrics::new();
    let tls = match settings.tls {
        Some(files) => {
            let credentials = Credentials::load(&files.ca, &files.cert, &files.key)?;
            reload::follow(files, credentials.clone(), metrics.clone())?;
            Some(credentials)
        }
        None => None,
    };
    let guard = Guard::start(crate::guard::GuardConfig {
        listen: settings.listen,
        backend: settings.backend,
        resource: settings.resource,
        mode: settings.mode,
        data_dir: settings.data_dir,
        tls,
        cluster: settings.cluster,
        raise_timeout: settings.raise_timeout,
        metrics,
    })
    .await?;
    let signal = asked_to_end().await?;
    tracing::info!(signal, "the guard ends");
    guard.stop().await;
    Ok(())
}

/// Runs the demo backend until it is asked to end.
pub async fn demo_backend(listen: SocketAddr, dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    end_with_parent();
    let ledger = Ledger::start(listen, dir).await?;
    asked_to_end().await?;
    ledger.stop().await;
    Ok(())
}
