//! A child process: its output goes to a file, signals reach it by its own id, and it never
//! outlives the test.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::wait;

/// How many lines of output a failure shows.
const SHOWN_LINES: usize = 30;
/// Ticks a second in `/proc/PID/stat`; fixed at 100 for user space on Linux.
const TICKS_PER_SECOND: u64 = 100;

/// A running, stopped or ended child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Its standard input, when it was started with one.
    input: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with `args`; standard output and error are appended to `log`.
    ///
    /// `setpriv --pdeathsig` lets the kernel end the child when the thread that started it ends, so
    /// that nothing is left behind when a test is killed: start children on a thread that stays.
    pub fn spawn(name: &str, log: &Path, program: &[&str], env: &[(&str, &str)]) -> Self {
        Self::spawn_reading(Stdio::null(), name, log, program, env)
    }

    /// Like [`Process::spawn`], for a program that takes lines on its standard input: see [`Process::say`].
    pub fn spawn_with_input(name: &str, log: &Path, program: &[&str]) -> Self {
        Self::spawn_reading(Stdio::piped(), name, log, program, &[])
    }

    fn spawn_reading(input: Stdio, name: &str, log: &Path, program: &[&str], env: &[(&str, &str)]) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("the log file can be opened");
        let err = out.try_clone().expect("the log file can be shared");
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(program)
            .envs(env.iter().copied())
            .stdin(input)
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|e| panic!("{name} can't be started (is util-linux installed?): {e}"));
        let input = child.stdin.take();
        Self { name: name.to_string(), child, input, log: log.to_path_buf() }
    }

    /// Types one line into its standard input.
    pub fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it was started with an input");
        writeln!(input, "{line}").unwrap_or_else(|e| panic!("{} takes no input: {e}", self.name));
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal; nothing happens when the process has ended.
    pub fn signal(&self, signal: Signal) {
        send_signal(self.child.id(), signal);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The exit status, if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the status of a child can be asked")
    }

    /// Waits for the end.
    pub fn wait_ended(&mut self, limit: Duration) -> ExitStatus {
        let name = self.name.clone();
        wait::until(&format!("{name} ends"), limit, || self.ended())
    }

    /// Whether the kernel has it in the stopped state (`T`).
    pub fn is_stopped(&self) -> bool {
        stat_fields(self.child.id()).is_some_and(|fields| fields.first().map(String::as_str) == Some("T"))
    }

    /// The last lines of its output.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    /// Everything it has written.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- last words of {} ({})\n{}", self.name, self.log.display(), self.last_words());
        }
    }
}

/// Sends a signal to any process of ours; nothing happens when it has ended.
pub fn send_signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid as i32).expect("a process has a positive id");
    let _ = kill_process(pid, signal);
}

/// Whether there is a process with this id, if only one that waits for its parent to notice its end.
pub fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The words of a process's command line.
pub fn command_line(pid: u32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// CPU time (user and system) that a process and its threads used since it started.
pub fn cpu_time(pid: u32) -> Duration {
    let fields = stat_fields(pid).unwrap_or_default();
    // Fields 14 and 15 of proc(5), counted from 1; ours begin with field 3.
    let ticks = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(14) + ticks(15)) * 1000 / TICKS_PER_SECOND)
}

/// The ids of the direct children of a process.
pub fn children_of(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Resident memory in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The fields of `/proc/PID/stat` after the command's name, the state first.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = text.rsplit_once(')')?;
    Some(after_name.split_whitespace().map(str::to_string).collect())
}
