//! Where a development cluster keeps what, and on which ports: pure, from three numbers.
//!
//! Node `i` (from 1) keeps its data under `DIR/node-i` and listens on `base + 10 (i - 1)` for peers,
//! `+ 1` for clients (TCP) and forwarded requests (UDP), `+ 2` for the API. The guard listens on
//! `base + 90`, the demo backend on `base + 91`.

use std::path::{Path, PathBuf};

/// The cluster's name in every certificate.
pub const CLUSTER: &str = "dev";
/// The one route, and so the resource that is fenced.
pub const RESOURCE: &str = "ledger";

/// A development cluster's places.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Everything is kept below it.
    pub dir: PathBuf,
    /// Node ids 1 to this.
    pub nodes: u64,
    /// The first port.
    pub base_port: u16,
}

impl Layout {
    /// Checks that the ports fit.
    pub fn try_new(dir: &Path, nodes: u64, base_port: u16) -> Result<Self, String> {
        if !matches!(nodes, 1 | 3 | 5 | 7) {
            return Err(format!("--nodes {nodes}: a cluster has 1, 3, 5 or 7 nodes; 3 is the usual choice"));
        }
        if !(1024..=u16::MAX - 100).contains(&base_port) {
            return Err(format!("--base-port {base_port}: choose a port from 1024 to {}", u16::MAX - 100));
        }
        Ok(Self { dir: dir.to_path_buf(), nodes, base_port })
    }

    /// The node ids.
    pub fn ids(&self) -> impl Iterator<Item = u64> + use<> {
        1..=self.nodes
    }

    /// A port of a node: 0 peer, 1 proxy and hop, 2 API.
    pub fn port(&self, id: u64, which: u16) -> u16 {
        let step = u16::try_from(id.saturating_sub(1)).unwrap_or(0);
        self.base_port + 10 * step + which
    }

    /// Where clients of node `id` go.
    pub fn proxy_url(&self, id: u64) -> String {
        format!("http://127.0.0.1:{}", self.port(id, 1))
    }

    /// Where the API of node `id` is.
    pub fn api_url(&self, id: u64) -> String {
        format!("http://127.0.0.1:{}", self.port(id, 2))
    }

    /// The guard's port.
    pub fn guard_port(&self) -> u16 {
        self.base_port + 90
    }

    /// The demo backend's port.
    pub fn backend_port(&self) -> u16 {
        self.base_port + 91
    }

    /// The directory of the cluster's certificates.
    pub fn certs(&self) -> PathBuf {
        self.dir.join("certs")
    }

    /// Node `id`'s directory.
    pub fn node_dir(&self, id: u64) -> PathBuf {
        self.dir.join(format!("node-{id}"))
    }

    /// Node `id`'s configuration file.
    pub fn node_config(&self, id: u64) -> PathBuf {
        self.dir.join(format!("node-{id}.toml"))
    }

    /// The guard's configuration file.
    pub fn guard_config(&self) -> PathBuf {
        self.dir.join("guard.toml")
    }

    /// The demo backend's directory.
    pub fn ledger_dir(&self) -> PathBuf {
        self.dir.join("ledger")
    }

    /// The text of node `id`'s configuration.
    pub fn node_toml(&self, id: u64) -> String {
        let certs = self.certs();
        let certs = certs.display();
        let mut text = format!(
            "# Written by `termgate dev`; a change is lost at its next start.\n\
             [node]\nid = {id}\ndata_dir = {:?}\n\n[cluster]\nname = \"{CLUSTER}\"\n",
            self.node_dir(id)
        );
        for other in self.ids() {
            let [peer, proxy, api] = [0, 1, 2].map(|which| self.port(other, which));
            text += &format!(
                "[[cluster.members]]\nid = {other}\npeer = \"127.0.0.1:{peer}\"\n\
                 proxy = \"127.0.0.1:{proxy}\"\napi = \"127.0.0.1:{api}\"\n"
            );
        }
        let [peer, proxy, api] = [0, 1, 2].map(|which| self.port(id, which));
        text += &format!(
            "\n[listen]\npeer = \"127.0.0.1:{peer}\"\nproxy = \"127.0.0.1:{proxy}\"\napi = \"127.0.0.1:{api}\"\n\n\
             [tls]\nca = \"{certs}/ca.pem\"\ncert = \"{certs}/node-{id}.pem\"\nkey = \"{certs}/node-{id}.key\"\n\n\
             [[route]]\nname = \"{RESOURCE}\"\nmatch = {{ path_prefix = \"/\" }}\n\
             backend = \"https://127.0.0.1:{}\"\nfence = \"enforced\"\n",
            self.guard_port()
        );
        text
    }

    /// The text of the guard's configuration.
    pub fn guard_toml(&self) -> String {
        let certs = self.certs();
        let certs = certs.display();
        format!(
            "# Written by `termgate dev`; a change is lost at its next start.\n\
             [guard]\nlisten = \"127.0.0.1:{}\"\nbackend = \"http://127.0.0.1:{}\"\nresource = \"{RESOURCE}\"\n\
             mode = \"enforced\"\ndata_dir = {:?}\ncluster = \"{CLUSTER}\"\n\n\
             [tls]\nca = \"{certs}/ca.pem\"\ncert = \"{certs}/guard-{RESOURCE}.pem\"\nkey = \"{certs}/guard-{RESOURCE}.key\"\n",
            self.guard_port(),
            self.backend_port(),
            self.dir.join("guard"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Layout;
    use std::path::Path;

    #[test]
    fn ports_are_where_the_contract_says() {
        let layout = Layout::try_new(Path::new("d"), 3, 7100).expect("a good layout");
        assert_eq!([0, 1, 2].map(|which| layout.port(2, which)), [7110, 7111, 7112]);
        assert_eq!((layout.guard_port(), layout.backend_port()), (7190, 7191));
    }

    #[test]
    fn refuses_an_even_cluster_and_ports_that_do_not_fit() {
        assert!(Layout::try_new(Path::new("d"), 2, 7100).is_err());
        assert!(Layout::try_new(Path::new("d"), 3, 65_500).is_err());
    }
}
