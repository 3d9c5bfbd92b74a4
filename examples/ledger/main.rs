//! A ledger on PostgreSQL that verifies the fencing token itself, inside the transaction of the write.
//!
//! It needs no guard: `PUT /.well-known/termgate/fence` goes to `termgate_raise`, and a trigger on
//! the table compares the term of every transaction. `recipes/postgresql/README.md` tells how to
//! set it up and run it.
//!
//! | file | idea |
//! |---|---|
//! | `main` | the flags |
//! | `service/mod` | HTTP in and out |
//! | `service/database` | sessions, transactions, and what an error says about the outcome |

mod service;

use std::net::SocketAddr;

use clap::Parser;

use crate::service::{Options, Service};

/// A fenced ledger on PostgreSQL: POST /ledger appends, GET /ledger lists.
#[derive(Parser)]
struct Args {
    /// Where it listens; a loopback address, because it asks for no certificates.
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// The application's role: it can write, and cannot raise.
    #[arg(long)]
    database_url: String,
    /// A role that may call termgate_raise.
    #[arg(long)]
    raise_url: String,
    /// The name of the route at the nodes.
    #[arg(long, default_value = "orders")]
    resource: String,
    /// Sessions for reads and writes.
    #[arg(long, default_value_t = 8)]
    connections: usize,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    if !args.listen.ip().is_loopback() {
        return Err(format!("{} is not a loopback address: put a TLS proxy in front", args.listen).into());
    }
    let options = Options {
        listen: args.listen,
        database_url: args.database_url,
        raise_url: args.raise_url,
        resource: args.resource,
        connections: args.connections.max(1),
    };
    let service = Service::start(options).await?;
    println!("the ledger listens on {}", service.address);
    tokio::signal::ctrl_c().await?;
    Ok(())
}
