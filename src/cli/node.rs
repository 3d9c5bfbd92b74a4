//! `termgate node`: from a configuration, or by joining a cluster, which writes one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::ids::NodeId;

const JOINING: &str = "\
JOINING. `termgate member invite --id ID` prints a token. With it the machine makes its key and its data directory, \
gets a certificate, and is a member without a vote. It writes, beside the data directory DIR: DIR.toml, the \
configuration (or --config FILE), and DIR.certs/, the certificates. Then it starts. The same command again goes on \
where it was, and once there is a configuration it only starts; so does `termgate node --config DIR.toml`.";

/// How a node is started.
#[derive(Debug, Clone, Args)]
#[command(after_help = JOINING)]
pub struct NodeArgs {
    /// The TOML file; the environment (TERMGATE_<SECTION>__<KEY>) overrides it. With --join: where to write it
    /// [default: beside the data directory]
    #[arg(long, short, value_name = "FILE", required_unless_present = "join")]
    pub config: Option<PathBuf>,
    /// Join a cluster: the API of a node that can sign certificates ([tls] ca_key); may be repeated
    #[arg(long, value_name = "URL", value_delimiter = ',',
        requires_all = ["token", "data_dir", "peer_address", "proxy_address", "api_address"])]
    pub join: Vec<String>,
    /// The token of `termgate member invite`
    #[arg(long, value_name = "TOKEN", env = "TERMGATE_JOIN_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// The id; it is a part of the token, and compared when given
    #[arg(long, value_name = "ID", requires = "join")]
    pub id: Option<u64>,
    /// Where the node keeps its log
    #[arg(long, value_name = "DIR", requires = "join")]
    pub data_dir: Option<PathBuf>,
    /// Where the others reach it, UDP: Raft
    #[arg(long, value_name = "HOST:PORT", requires = "join")]
    pub peer_address: Option<String>,
    /// Where clients reach it, TCP
    #[arg(long, value_name = "HOST:PORT", requires = "join")]
    pub proxy_address: Option<String>,
    /// Where its API is reached, TCP
    #[arg(long, value_name = "HOST:PORT", requires = "join")]
    pub api_address: Option<String>,
    /// Where the others reach it, UDP: forwarded requests [default: the proxy's address]
    #[arg(long, value_name = "HOST:PORT", requires = "join")]
    pub hop_address: Option<String>,
    /// Where it is, for the preferred place of leadership
    #[arg(long, value_name = "NAME", requires = "join")]
    pub zone: Option<String>,
    /// Where to listen [default: the same port, on all addresses]
    #[arg(long, value_name = "IP:PORT", requires = "join")]
    pub listen_peer: Option<SocketAddr>,
    /// [default: the same port, on all addresses]
    #[arg(long, value_name = "IP:PORT", requires = "join")]
    pub listen_proxy: Option<SocketAddr>,
    /// [default: the address of the proxy's listener]
    #[arg(long, value_name = "IP:PORT", requires = "join")]
    pub listen_hop: Option<SocketAddr>,
    /// [default: the same port, on 127.0.0.1]; any other address needs --api-token-file
    #[arg(long, value_name = "IP:PORT", requires = "join")]
    pub listen_api: Option<SocketAddr>,
    /// The file with the token that calls of its API must carry, if they change something
    #[arg(long, value_name = "FILE", requires = "join")]
    pub api_token_file: Option<PathBuf>,
    /// Ask for a vote when it has caught up
    #[arg(long, requires = "join")]
    pub voter: bool,
}

/// What to start with.
#[derive(Debug)]
pub enum Start {
    /// This configuration.
    Configured(PathBuf),
    /// A cluster that is there.
    Joining(Box<Joining>),
}

/// A machine that joins.
#[derive(Debug, Clone)]
pub struct Joining {
    /// Whom to ask.
    pub apis: Vec<String>,
    /// With which token.
    pub token: String,
    /// As whom, if that was said.
    pub id: Option<NodeId>,
    /// Where the log is kept.
    pub data_dir: PathBuf,
    /// Where the configuration is written.
    pub config: PathBuf,
    /// Its addresses: peer, hop, proxy, API.
    pub addresses: [String; 4],
    /// Where it is.
    pub zone: Option<String>,
    /// Where it listens, in the same order, if not where it is reached.
    pub listen: [Option<SocketAddr>; 4],
    /// Where the API's token is.
    pub api_token_file: Option<PathBuf>,
    /// Whether it wants a vote.
    pub voter: bool,
}

impl NodeArgs {
    /// What was asked for. The command line gives all that joining needs, or nothing of it.
    pub fn start(self) -> Start {
        let Self { config, join, data_dir, .. } = self;
        if join.is_empty() {
            return Start::Configured(config.unwrap_or_default());
        }
        let data_dir = data_dir.unwrap_or_default();
        let proxy = self.proxy_address.unwrap_or_default();
        let hop = self.hop_address.unwrap_or_else(|| proxy.clone());
        Start::Joining(Box::new(Joining {
            apis: join,
            token: self.token.unwrap_or_default(),
            id: self.id.map(NodeId),
            config: config.unwrap_or_else(|| beside(&data_dir, "toml")),
            data_dir,
            addresses: [
                self.peer_address.unwrap_or_default(),
                hop,
                proxy,
                self.api_address.unwrap_or_default(),
            ],
            zone: self.zone,
            listen: [self.listen_peer, self.listen_hop, self.listen_proxy, self.listen_api],
            api_token_file: self.api_token_file,
            voter: self.voter,
        }))
    }
}

/// `DIR.extension`.
pub fn beside(dir: &Path, extension: &str) -> PathBuf {
    let mut name = dir.components().as_path().as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}
