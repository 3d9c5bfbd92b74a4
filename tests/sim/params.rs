//! What a seed decides before anything happens: the size of the cluster, its configuration, which
//! faults exist in this world and how hard they bite.
//!
//! Each class of faults is off in about half of the worlds (swarm testing): a world in which
//! everything fails at once hides what only one fault alone, at full strength, brings out. The
//! parameters go to the edge of what `Config::problems` allows: wide margins hide lease bugs.

use termgate::fencing::mode::FenceMode;
use termgate::ids::NodeId;
use termgate::raft::config::Config;
use termgate::time::Duration;

use crate::clock::MS;
use crate::nemesis::COUNT;
use crate::rng::Rng;

/// The network's share.
#[derive(Debug, Clone)]
pub struct NetParams {
    /// Messages lost, per million.
    pub drop_ppm: u32,
    /// Messages that arrive twice, per million.
    pub duplicate_ppm: u32,
    /// The shortest way, in nanoseconds.
    pub delay_min: u64,
    /// The longest usual way.
    pub delay_max: u64,
    /// Messages that take far longer, per million.
    pub tail_ppm: u32,
    /// How long those take at most.
    pub tail_max: u64,
    /// The most that one direction of a link may be slower than another.
    pub skew_max: u64,
    /// Whether a cut also stops what is already under way, or lets it arrive.
    pub cut_stops_flying: bool,
    /// The heartbeat interval, to judge delays by.
    pub heartbeat: u64,
    /// The shortest election timeout.
    pub election: u64,
}

impl NetParams {
    /// A healthy local network.
    pub const fn calm(heartbeat: u64, election: u64) -> Self {
        Self {
            heartbeat,
            election,
            drop_ppm: 0,
            duplicate_ppm: 0,
            delay_min: MS / 10,
            delay_max: MS,
            tail_ppm: 0,
            tail_max: 50 * MS,
            skew_max: 0,
            cut_stops_flying: false,
        }
    }

    fn draw(rng: &mut Rng, heartbeat: u64, election: u64) -> Self {
        let delay_max = rng.log_range(MS / 5, heartbeat / 2);
        Self {
            drop_ppm: sometimes(rng, |r| r.log_range(1_000, 300_000)) as u32,
            duplicate_ppm: sometimes(rng, |r| r.log_range(1_000, 300_000)) as u32,
            delay_min: rng.range(MS / 20, delay_max),
            delay_max,
            tail_ppm: sometimes(rng, |r| r.range(1_000, 40_000)) as u32,
            tail_max: rng.log_range(60 * MS, (2 * election).max(2_000 * MS)),
            skew_max: sometimes(rng, |r| r.log_range(MS, heartbeat)),
            cut_stops_flying: rng.coin(),
            heartbeat,
            election,
        }
    }
}

/// The disks' share.
#[derive(Debug, Clone)]
pub struct DiskParams {
    /// The quickest fsync, in nanoseconds.
    pub fsync_min: u64,
    /// The slowest usual fsync.
    pub fsync_max: u64,
    /// Fsyncs that stall, per million.
    pub stall_ppm: u32,
    /// The longest stall.
    pub stall_max: u64,
    /// Fsyncs that fail and so end the process, per million.
    pub error_ppm: u32,
}

impl DiskParams {
    /// A healthy disk.
    pub const fn calm() -> Self {
        Self { fsync_min: MS / 10, fsync_max: MS, stall_ppm: 0, stall_max: MS, error_ppm: 0 }
    }

    fn draw(rng: &mut Rng, election: u64) -> Self {
        let fsync_max = rng.log_range(MS / 5, 20 * MS);
        Self {
            fsync_min: rng.range(MS / 10, fsync_max),
            fsync_max,
            stall_ppm: sometimes(rng, |r| r.log_range(500, 20_000)) as u32,
            stall_max: rng.log_range(20 * MS, (2 * election).max(2_000 * MS)),
            error_ppm: sometimes(rng, |r| r.log_range(100, 3_000)) as u32,
        }
    }
}

/// The share of the medium below the real store.
#[derive(Debug, Clone)]
pub struct StoreParams {
    /// Starts in which the power goes again, per million.
    pub cut_in_start_ppm: u32,
    /// Crashes in which the process ends and the machine goes on, per million.
    pub kill_ppm: u32,
    /// Crashes after which something is damaged, per million.
    pub rot_ppm: u32,
}

impl StoreParams {
    /// That of `seed`.
    pub fn draw(seed: u64) -> Self {
        let rng = &mut Rng::stream(seed, 8);
        Self {
            cut_in_start_ppm: sometimes(rng, |r| r.range(20_000, 400_000)) as u32,
            kill_ppm: rng.pick(&[0, 300_000, 700_000, 1_000_000]),
            rot_ppm: sometimes(rng, |r| r.range(20_000, 300_000)) as u32,
        }
    }
}

/// What the nemesis may do at random, and how often. Zero: not in this world.
#[derive(Debug, Clone)]
pub struct FaultParams {
    /// Mean time between two random faults, in nanoseconds.
    pub mean_gap: u64,
    /// The weights of the classes, in the nemesis' order.
    pub weights: [u32; COUNT],
    /// A crash right after a message left, per million messages.
    pub crash_after_send_ppm: u32,
    /// A crash while writes are queued, per million turns.
    pub crash_in_fsync_ppm: u32,
    /// Whether restarts are quick, slow or both.
    pub restart_max: u64,
    /// Whether the scripted nemeses play.
    pub scripts: bool,
}

/// The clients' share.
#[derive(Debug, Clone)]
pub struct ClientParams {
    /// Mean time between two requests, in nanoseconds.
    pub mean_gap: u64,
    /// Weights of: put, compare-and-set, linearizable read, lease read, write for the fenced resource.
    pub weights: [u32; 5],
    /// The longest pause of a handler between a check and the act that the check guards.
    pub dawdle_max: u64,
    /// The longest way from the gate to the backend.
    pub backend_delay_max: u64,
}

/// The share of the fenced resource and of the way to it.
#[derive(Debug, Clone)]
pub struct FencedParams {
    /// What its backend can do about a stale token.
    pub mode: FenceMode,
    /// How long a request is tried, in nanoseconds.
    pub hold: u64,
    /// How long the backend's answer is waited for.
    pub answer_timeout: u64,
    /// How long the true answer of a leader that was replaced is waited for.
    pub late_answer: u64,
    /// So short a time after a leader was heard the content goes along with the head.
    pub fresh: u64,
    /// Between two looks at the fence behind an open gate.
    pub look_interval: u64,
    /// How long the answer to a call to the verifier is waited for; some take that long.
    pub call_patience: u64,
    /// How much later than the loop a gate's keeper is at most.
    pub keeper_lag: u64,
    /// Connections that were used before, per million, and those of them that the backend has closed.
    pub reused_ppm: u32,
    pub closed_ppm: u32,
    /// Answers of the backend that are lost, per million.
    pub lost_ppm: u32,
    /// Processes that are stopped between the last look at the gate and the first byte, per million.
    pub stop_ppm: u32,
    /// Mean time between two losses of the fence; zero for never.
    pub loss_gap: u64,
    /// The same of nodes that leave as they should.
    pub leave_gap: u64,
}

impl FencedParams {
    /// A guard that answers, at a leader that is always in time.
    const fn healthy(election: u64) -> Self {
        Self {
            mode: FenceMode::Enforced,
            hold: 2 * election,
            answer_timeout: 2 * election,
            late_answer: election,
            fresh: 10 * MS,
            look_interval: election,
            call_patience: 20 * MS,
            keeper_lag: 0,
            reused_ppm: 900_000,
            closed_ppm: 0,
            lost_ppm: 0,
            stop_ppm: 0,
            loss_gap: 0,
            leave_gap: 0,
        }
    }

    fn draw(seed: u64, clients: &ClientParams, election: u64) -> Option<Self> {
        let rng = &mut Rng::stream(seed, 10);
        let modes = [FenceMode::Enforced, FenceMode::Enforced, FenceMode::Enforced, FenceMode::Implicit];
        let mode = if rng.chance(150_000) { FenceMode::Drain } else { rng.pick(&modes) };
        let asked = clients.weights[4] > 0 && rng.coin();
        asked.then(|| Self {
            mode,
            hold: rng.log_range(election / 4, election * 6),
            answer_timeout: rng.range(election, election * 4) + 2 * clients.backend_delay_max,
            late_answer: rng.log_range(election / 10, election * 2),
            fresh: rng.pick(&[MS, 10 * MS, election]),
            look_interval: rng.log_range(election / 4, election * 4),
            call_patience: 4 * clients.backend_delay_max + rng.log_range(20 * MS, election * 10),
            keeper_lag: sometimes(rng, |r| r.log_range(MS / 10, election * 3)),
            reused_ppm: rng.pick(&[0, 500_000, 900_000]),
            closed_ppm: sometimes(rng, |r| r.range(1_000, 100_000)) as u32,
            lost_ppm: sometimes(rng, |r| r.log_range(1_000, 200_000)) as u32,
            stop_ppm: sometimes(rng, |r| r.log_range(1_000, 50_000)) as u32,
            loss_gap: if rng.chance(300_000) { rng.log_range(election, election * 20) } else { 0 },
            leave_gap: if rng.chance(200_000) { rng.log_range(election * 4, election * 30) } else { 0 },
        })
    }
}

/// One world.
#[derive(Debug, Clone)]
pub struct Params {
    /// One configuration per node; its length is the size of the cluster.
    pub configs: Vec<Config>,
    /// By how much clocks really run fast or slow, in parts per million.
    pub real_drift_ppm: i32,
    /// Whether clocks stay within the configured bound. If not, lease reads may be stale; nothing
    /// else may be wrong.
    pub clocks_in_bound: bool,
    /// How many of them are voters when the world begins; the others know nobody.
    pub voters: usize,
    /// How often somebody wants the membership changed; zero: never.
    pub operator_gap: u64,
    /// How often it gives a machine an empty disk instead, per million.
    pub wipe_ppm: u32,
    /// The network.
    pub net: NetParams,
    /// How the medium below the real store misbehaves, when that is part of the world.
    pub store: Option<StoreParams>,
    /// The disks.
    pub disk: DiskParams,
    /// The nemesis.
    pub faults: FaultParams,
    /// The clients.
    pub clients: ClientParams,
    /// The fenced resource, where somebody asks for it.
    pub fenced: Option<FencedParams>,
    /// How long faults last before everything heals, in nanoseconds of true time.
    pub storm: u64,
    /// Whether nodes come back from a crash with other timers, as in a rolling change of them.
    pub retimes: bool,
    /// The longest that taking, or verifying, a snapshot takes, in nanoseconds.
    pub snapshot_time_max: u64,
    /// Fetched snapshots that are damaged, per million.
    pub snapshot_damage_ppm: u32,
    /// Whether messages pass through their wire encoding.
    pub encode: bool,
    /// Whether nodes come back from a crash speaking another version of it, as in a rolling upgrade
    /// that is begun, and perhaps taken back.
    pub upgrades: bool,
    /// Turns that stay open for more inputs, per million.
    pub batch_ppm: u32,
    /// Whether a turn that comes late is reported as `Input::ClockSuspect`.
    pub notice_gaps: bool,
    /// How many entries are applied in one turn at most.
    pub apply_slice: usize,
}

/// In milliseconds: local clusters, and those across regions.
const HEARTBEATS: [u64; 10] = [10, 20, 50, 50, 50, 100, 100, 150, 250, 400];

/// Zero in half of the worlds.
fn sometimes(rng: &mut Rng, draw: impl FnOnce(&mut Rng) -> u64) -> u64 {
    if rng.coin() { draw(rng) } else { 0 }
}

impl Params {
    /// The world of `seed`.
    pub fn draw(seed: u64) -> Self {
        let rng = &mut Rng::stream(seed, 1);
        let voters = rng.pick(&[3, 3, 3, 3, 3, 5, 5, 5, 1, 2, 7]);
        let others = &mut Rng::stream(seed, 11);
        let changes = others.chance(330_000);
        let nodes = voters + if changes { others.range(0, 2) } else { 0 };
        let heartbeat = rng.pick(&HEARTBEATS) * MS;
        let drift_ppm = rng.pick(&[1_000, 1_000, 20_000, 100_000, 200_000]);
        let configs = configs(rng, nodes, heartbeat, drift_ppm);
        let clocks_in_bound = !rng.chance(60_000);
        let real = match rng.below(4) {
            0 => 0,
            1 => rng.below(u64::from(drift_ppm)) as i32,
            _ => drift_ppm as i32,
        };
        let election = configs[0].election_timeout_max.as_nanos() as u64;
        let operator_gap = if changes { others.log_range(election / 8, election * 8) } else { 0 };
        let wipe_ppm = sometimes(others, |r| r.log_range(20_000, 300_000)) as u32;
        let (faults, clients) = (faults(rng, election), clients(rng, heartbeat, election));
        Self {
            voters: voters as usize,
            operator_gap,
            wipe_ppm,
            real_drift_ppm: if clocks_in_bound { real } else { (drift_ppm * 10).min(800_000) as i32 },
            clocks_in_bound,
            net: NetParams::draw(rng, heartbeat, configs[0].election_timeout_min.as_nanos() as u64),
            disk: DiskParams::draw(rng, election),
            faults,
            fenced: FencedParams::draw(seed, &clients, election),
            clients,
            storm: rng.range(15, 45) * election,
            retimes: rng.chance(200_000),
            snapshot_time_max: rng.log_range(MS, election),
            snapshot_damage_ppm: sometimes(rng, |r| r.range(10_000, 300_000)) as u32,
            encode: rng.chance(100_000),
            upgrades: rng.chance(100_000),
            store: None,
            batch_ppm: sometimes(rng, |r| r.range(10_000, 700_000)) as u32,
            notice_gaps: rng.coin(),
            apply_slice: rng.pick(&[1, 3, 1_000, 1_000]) as usize,
            configs,
        }
    }
}

impl Params {
    /// A world in which nothing goes wrong by itself, and two clients' writes a heartbeat interval or so.
    pub fn healthy(configs: Vec<Config>) -> Self {
        let election = configs[0].election_timeout_min.as_nanos() as u64;
        let heartbeat = configs[0].heartbeat_interval.as_nanos() as u64;
        Self {
            voters: configs.len(),
            operator_gap: 0,
            wipe_ppm: 0,
            real_drift_ppm: configs[0].clock_drift_ppm as i32,
            clocks_in_bound: true,
            net: NetParams::calm(heartbeat, election),
            disk: DiskParams::calm(),
            faults: FaultParams {
                mean_gap: u64::MAX / 4,
                weights: [0; COUNT],
                crash_after_send_ppm: 0,
                crash_in_fsync_ppm: 0,
                restart_max: election,
                scripts: false,
            },
            clients: ClientParams {
                mean_gap: heartbeat,
                weights: [4, 1, 2, 2, 1],
                dawdle_max: 0,
                backend_delay_max: MS,
            },
            fenced: Some(FencedParams::healthy(election)),
            storm: 0,
            retimes: false,
            snapshot_time_max: MS,
            snapshot_damage_ppm: 0,
            encode: false,
            upgrades: false,
            store: None,
            batch_ppm: 0,
            notice_gaps: false,
            apply_slice: 1_000,
            configs,
        }
    }
}

fn configs(rng: &mut Rng, nodes: u64, heartbeat: u64, drift_ppm: u32) -> Vec<Config> {
    let mixed = rng.chance(150_000);
    let lease_reads = !rng.chance(100_000);
    let small = sometimes(rng, |r| r.range(1, 2));
    let margin_share = rng.pick(&[0, 0, 0, 1, 10, 50]);
    let mut timers = draw_timers(rng);
    let snapshot_entries = if rng.chance(200_000) { 1_000_000 } else { rng.log_range(1, 250) };
    let snapshot_bytes = rng.pick(&[300, 3_000, 1_000_000, 1_000_000]) as usize;
    let snapshot_keep = if rng.coin() { 0 } else { rng.log_range(1, 80) };
    let snapshot_keep_bytes = rng.pick(&[100, 1_000_000]) as usize;
    let chunk_bytes = rng.pick(&[50, 200, 1_000, 100_000]) as u32;
    let max_inflight_chunks = rng.range(1, 8) as u32;
    (1..=nodes)
        .map(|id| {
            if mixed {
                timers = draw_timers(rng);
            }
            let mut config = Config::new(NodeId(id));
            config.heartbeat_interval = Duration::from_nanos(heartbeat);
            set_timers(&mut config, timers, margin_share);
            config.clock_drift_ppm = drift_ppm;
            config.lease_reads = lease_reads;
            config.snapshot_entries = snapshot_entries;
            config.snapshot_bytes = snapshot_bytes;
            config.snapshot_keep = snapshot_keep;
            config.snapshot_keep_bytes = snapshot_keep_bytes;
            config.chunk_bytes = chunk_bytes;
            config.max_inflight_chunks = max_inflight_chunks;
            if small > 0 {
                config.max_uncommitted = rng.range(2, 50) as usize;
                config.max_append_bytes = rng.range(1, 400) as usize;
                config.max_inflight_messages = rng.range(1, 4) as usize;
                config.max_inflight_bytes = rng.range(100, 2_000) as usize;
                config.max_pending_reads = rng.range(1, 20) as usize;
            }
            assert!(config.problems().is_empty(), "the simulator draws valid configurations: {config:?}");
            config
        })
        .collect()
}

/// The shortest election timeout in tenths of a heartbeat, and the longest in tenths of the shortest.
fn draw_timers(rng: &mut Rng) -> (u32, u32) {
    (rng.range(20, 60) as u32, rng.range(11, 25) as u32)
}

fn set_timers(config: &mut Config, timers: (u32, u32), margin_share: u32) {
    let min = config.heartbeat_interval * timers.0 / 10;
    config.election_timeout_min = min;
    config.election_timeout_max = min * timers.1 / 10;
    config.lease_margin = min * margin_share / 100;
}

/// Other election timers for a node that starts again.
pub fn redraw_timers(config: &mut Config, rng: &mut Rng) {
    let timers = draw_timers(rng);
    set_timers(config, timers, 0);
}

fn faults(rng: &mut Rng, election: u64) -> FaultParams {
    let mut weights = [0; COUNT];
    for weight in &mut weights {
        *weight = sometimes(rng, |r| r.range(1, 10)) as u32;
    }
    if rng.chance(150_000) {
        // One alone, at full strength.
        let class = rng.below(COUNT as u64) as usize;
        weights = [0; COUNT];
        weights[class] = 1;
    }
    FaultParams {
        mean_gap: rng.log_range(election / 8, election * 4),
        weights,
        crash_after_send_ppm: if rng.chance(250_000) { rng.log_range(100, 5_000) as u32 } else { 0 },
        crash_in_fsync_ppm: if rng.chance(250_000) { rng.log_range(250, 7_500) as u32 } else { 0 },
        restart_max: rng.pick(&[8 * MS, 8 * MS, election, election, election * 10]),
        scripts: rng.coin(),
    }
}

fn clients(rng: &mut Rng, heartbeat: u64, election: u64) -> ClientParams {
    let mut weights = [0; 5];
    for weight in &mut weights {
        *weight = if rng.chance(750_000) { rng.range(1, 10) as u32 } else { 0 };
    }
    weights[0] = weights[0].max(1);
    ClientParams {
        mean_gap: rng.log_range(heartbeat / 10, heartbeat * 4),
        weights,
        dawdle_max: sometimes(rng, |r| r.log_range(MS, 2 * election)),
        backend_delay_max: rng.log_range(MS, election),
    }
}
