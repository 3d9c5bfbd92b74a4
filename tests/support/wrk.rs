//! Load from `wrk`: an event loop in C, so that the load costs little of the two cores and the same on
//! both sides of a comparison.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// What one run of `wrk` measured.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub requests: f64,
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Answers above 399, and socket errors.
    pub errors: f64,
}

/// One kind of request; `targets` and `bodies` are used in turn.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: &'static str,
    pub targets: Vec<String>,
    pub fields: Vec<(&'static str, String)>,
    /// Empty, one for all targets, or one per target.
    pub bodies: Vec<String>,
}

impl Request {
    /// The Lua that makes the requests once and hands them out in turn.
    fn script(&self) -> String {
        let quoted =
            |texts: &[String]| texts.iter().map(|t| format!("[==[{t}]==]")).collect::<Vec<_>>().join(",");
        let fields: Vec<String> =
            self.fields.iter().map(|(name, value)| format!("[\"{name}\"]=[==[{value}]==]")).collect();
        format!(
            "local targets = {{{}}}\nlocal bodies = {{{}}}\nlocal made = {{}}\nlocal turn = 0\n\
             init = function()\n for i, target in ipairs(targets) do\n  \
             local body = bodies[(i - 1) % math.max(#bodies, 1) + 1]\n  \
             made[i] = wrk.format(\"{}\", target, {{{}}}, body)\n end\nend\n\
             request = function() turn = turn % #made + 1; return made[turn] end\n\
             done = function(s, l, r)\n local e = s.errors\n \
             io.write(string.format(\"RESULT %d %d %d %d %d\\n\", s.requests, s.duration, l:percentile(50), l:percentile(99), \
             e.connect + e.read + e.write + e.status + e.timeout))\nend\n",
            quoted(&self.targets),
            quoted(&self.bodies),
            self.method,
            fields.join(",")
        )
    }
}

/// Loads `to` for `seconds` over `connections` connections, in one thread.
pub fn run(to: SocketAddr, connections: usize, seconds: usize, request: &Request, dir: &Path) -> Load {
    let script = dir.join("wrk.lua");
    std::fs::write(&script, request.script()).expect("the script is written");
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--timeout", "10s", "-s"])
        .arg(&script)
        .arg(format!("http://{to}/"))
        .output()
        .expect("wrk is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let line = line.unwrap_or_else(|| panic!("wrk said: {text}{}", String::from_utf8_lossy(&output.stderr)));
    let numbers: Vec<f64> =
        line.split(' ').map(|n| n.parse().expect("a number from our own script")).collect();
    let [requests, duration_us, p50_us, p99_us, errors] = numbers[..] else { panic!("five numbers: {line}") };
    Load { requests, per_second: requests / (duration_us / 1e6), p50_us, p99_us, errors }
}
