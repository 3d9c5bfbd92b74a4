//! nginx (Debian's package), as a static backend and as the rival proxy.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::process::{self, Process};
use super::wait;

/// A running nginx: a master and its workers.
#[derive(Debug)]
pub struct Nginx {
    master: Process,
}

impl Nginx {
    /// Starts nginx with `workers` workers and these lines in its `http` block.
    pub fn start(name: &str, dir: &Path, workers: usize, http_block: &str, listens_at: SocketAddr) -> Self {
        let home = dir.join(name);
        std::fs::create_dir_all(&home).expect("nginx's directory can be made");
        let home = home.to_str().expect("a plain path");
        let config = format!(
            "worker_processes {workers};\ndaemon off;\nuser root;\npid {home}/pid;\nerror_log {home}/error.log warn;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\naccess_log off;\nkeepalive_requests 1000000000;\nclient_body_temp_path {home}/body;\n\
             proxy_temp_path {home}/proxy;\nfastcgi_temp_path {home}/f;\nuwsgi_temp_path {home}/u;\nscgi_temp_path {home}/s;\n\
             {http_block}\n}}\n"
        );
        let file = format!("{home}/nginx.conf");
        std::fs::write(&file, config).expect("nginx's configuration is written");
        let log = dir.join(format!("{name}.log"));
        let master =
            Process::spawn(name, &log, &["nginx", "-e", &log.display().to_string(), "-c", &file], &[]);
        wait::until(&format!("{name} listens"), Duration::from_secs(10), || {
            std::net::TcpStream::connect(listens_at).ok()
        });
        Self { master }
    }

    /// CPU time of all workers.
    pub fn cpu_time(&self) -> Duration {
        process::children_of(self.master.pid()).into_iter().map(process::cpu_time).sum()
    }
}

/// A server that answers everything at once with a fixed body, also to POST.
pub fn static_backend(listen: SocketAddr) -> String {
    format!(
        "server {{ listen {listen} reuseport backlog=4096; client_max_body_size 10m; client_body_buffer_size 64k;\n\
         location / {{ default_type application/json; return 200 '{{\"seq\":1,\"term\":1}}'; }} }}"
    )
}

/// A proxy on `listen` to `upstream`, as a careful operator would tune it.
pub fn proxy(name: &str, listen: &str, upstream: &str, upstream_tls: &str) -> String {
    let scheme = if upstream_tls.is_empty() { "http" } else { "https" };
    format!(
        "upstream {name} {{ server {upstream}; keepalive 128; keepalive_requests 1000000000; }}\n\
         server {{ listen {listen};\nclient_max_body_size 10m; client_body_buffer_size 64k;\n\
         location / {{ proxy_pass {scheme}://{name}; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Termgate-Term 42; proxy_set_header Termgate-Node 1; proxy_set_header Termgate-Resource ledger;\n\
         proxy_set_header Termgate-Request-Id $request_id; {upstream_tls} }} }}"
    )
}
