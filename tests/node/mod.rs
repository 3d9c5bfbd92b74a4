//! The loop of a node with a real store and a real mesh, without the edges.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use termgate::driver::fatal::Fatal;
use termgate::driver::run::{self, Parts, Running};
use termgate::ids::NodeId;
use termgate::metrics::Metrics;
use termgate::raft::config::Config;
use termgate::raft::entry::Membership;
use termgate::registry::command::Member;
use termgate::storage::{Identity, Opened, Store};
use termgate::transport::endpoint::PeerConfig;

use crate::pki::Pki;

/// Node `id` in `dir`; the members listen at `addresses`, node 1 at the first.
pub struct Plan<'a> {
    pub pki: &'a Pki,
    pub dir: &'a Path,
    pub id: u64,
    pub addresses: &'a [SocketAddr],
}

impl Plan<'_> {
    fn members(&self) -> BTreeMap<NodeId, String> {
        (1..).map(NodeId).zip(self.addresses.iter().map(SocketAddr::to_string)).collect()
    }

    pub fn open(&self) -> (Store, Opened) {
        let membership = Membership::of_voters(self.members().into_keys());
        let identity = Identity { cluster: "orders".to_owned(), node: NodeId(self.id), membership };
        Store::open(self.dir, &identity, Config::new(NodeId(self.id)).election_timeout_min).unwrap()
    }

    fn parts(&self, store: (Store, Opened)) -> Parts {
        let (id, metrics) = (NodeId(self.id), Metrics::new());
        let listen = self.addresses[self.id as usize - 1];
        let member = |(id, peer): (NodeId, String)| {
            let nowhere = "127.0.0.1:9".to_owned();
            Member { id, peer, proxy: nowhere.clone(), hop: nowhere.clone(), api: nowhere, zone: None }
        };
        Parts {
            config: Config::new(id),
            store,
            data_dir: self.dir.to_path_buf(),
            members: self.members().into_iter().map(member).collect(),
            peers: PeerConfig {
                node: id,
                cluster: "orders".to_owned(),
                listen,
                address: listen.to_string(),
                members: self.members(),
                credentials: self.pki.node(self.id),
                metrics: metrics.clone(),
            },
            metrics,
            preferred_zone: None,
            seed: 7,
        }
    }

    /// Starts the node; `on_fatal` hears why it ended by itself.
    pub fn start(
        &self,
        store: (Store, Opened),
        on_fatal: impl Fn(Fatal) + Clone + Send + 'static,
    ) -> Result<Running, Fatal> {
        run::start(self.parts(store), on_fatal)
    }
}
