//! The processes of a development cluster: started, watched, restarted on request, ended together.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::dev::layout::Layout;
use crate::time::Duration;

/// How long a child may take to end by itself before it is killed: longer than a hand-over of
/// leadership takes. What a client still has under way then is cut off.
const END_LIMIT: Duration = Duration::from_secs(5);

/// One process of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The demo backend.
    Backend,
    /// The verifying sidecar in front of it.
    Guard,
    /// A node.
    Node(u64),
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Backend => f.write_str("the demo backend"),
            Self::Guard => f.write_str("the guard"),
            Self::Node(id) => write!(f, "node {id}"),
        }
    }
}

/// The running processes.
#[derive(Debug)]
pub struct Children {
    layout: Layout,
    running: BTreeMap<Role, Child>,
}

impl Children {
    /// None yet.
    pub fn new(layout: Layout) -> Self {
        Self { layout, running: BTreeMap::new() }
    }

    /// Starts one process; its output is appended to a log file of its own.
    pub fn start(&mut self, role: Role) -> io::Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.log_file(role))?;
        let child = self.command(role, log)?.spawn()?;
        self.running.insert(role, child);
        Ok(())
    }

    /// Whether the process runs, as far as is known.
    pub fn runs(&self, role: Role) -> bool {
        self.running.contains_key(&role)
    }

    /// Kills without a warning, as `kill -9` does.
    pub fn kill(&mut self, role: Role) -> io::Result<()> {
        self.running.get_mut(&role).map_or(Ok(()), Child::start_kill)
    }

    /// Those that have ended since the last call, each with how.
    pub fn ended(&mut self) -> Vec<(Role, String)> {
        let mut ended = Vec::new();
        for (role, child) in &mut self.running {
            if let Ok(Some(status)) = child.try_wait() {
                ended.push((*role, status.to_string()));
            }
        }
        for (role, _) in &ended {
            self.running.remove(role);
        }
        ended
    }

    /// Ends all of them, the nodes first: asks, waits, kills.
    pub async fn end_all(&mut self) {
        for (_, mut child) in std::mem::take(&mut self.running).into_iter().rev() {
            if let Some(pid) = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
                // It may have ended by itself.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            if tokio::time::timeout(END_LIMIT, child.wait()).await.is_err() {
                // Nothing is left to do when even this fails.
                let _ = child.kill().await;
            }
        }
    }

    /// Where a process logs.
    pub fn log_file(&self, role: Role) -> PathBuf {
        self.layout.dir.join(match role {
            Role::Backend => "backend.log".to_owned(),
            Role::Guard => "guard.log".to_owned(),
            Role::Node(id) => format!("node-{id}.log"),
        })
    }

    fn command(&self, role: Role, log: File) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        match role {
            Role::Backend => {
                let listen = format!("127.0.0.1:{}", self.layout.backend_port());
                command.args(["demo-backend", "--listen", &listen, "--dir"]).arg(self.layout.ledger_dir())
            }
            Role::Guard => command.args(["guard", "--config"]).arg(self.layout.guard_config()),
            Role::Node(id) => command.args(["node", "--config"]).arg(self.layout.node_config(id)),
        };
        // A group of its own: Ctrl-C reaches only this process, which ends the others in order.
        command.process_group(0).env("TERMGATE_ENDS_WITH_PARENT", "1");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }
}
