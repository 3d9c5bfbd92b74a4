//! Three nodes whose loops are played: commands are applied to every machine at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request as HttpRequest, Response};
use termgate::api::answers::ResourceStatus;
use termgate::api::auth::Token;
use termgate::api::{Api, ApiContext, Caller, Limits, Remote};
use termgate::certs::authority::AuthorityFiles;
use termgate::clock;
use termgate::driver::handle::{Applied, Handle, ReadPoint, Refused, Request, Transferred};
use termgate::fencing::leadership::Leadership;
use termgate::fencing::mode::FenceMode;
use termgate::hop::error::HopError;
use termgate::ids::{Life, LogId, LogIndex, NodeId, Term};
use termgate::metrics::Metrics;
use termgate::raft::effect::{Change, ReconfigureRefusal, RoleKind, TransferRefusal};
use termgate::raft::entry::{Entry, Membership, Payload};
use termgate::raft::view::{PeerView, View};
use termgate::registry::command::{Answer, Command, Member, Op};
use termgate::registry::machine::Machine;
use termgate::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// The token of a guarded cluster.
pub const TOKEN: &str = "a token for this test";

/// Short, because tests wait for their ends; the hold is longer than a busy machine's pauses.
pub const LIMITS: Limits = Limits {
    hold: Duration::from_millis(800),
    answer: Duration::from_millis(300),
    min_index: Duration::from_millis(300),
    report: Duration::from_millis(300),
};

/// What a leader does with a command.
#[derive(Debug, Clone, Default)]
pub enum Proposals {
    /// Applies it everywhere.
    #[default]
    Apply,
    /// Says no.
    Refuse(Refused),
    /// Says no, and applies the next.
    RefuseOnce(Refused),
    /// Answers this for the next entry, without an effect.
    Answer(Answer),
    /// Never answers.
    Hang,
}

/// What a leader does with a change of the membership.
#[derive(Debug, Clone, Default)]
pub enum Changes {
    /// Makes it, at once.
    #[default]
    Make,
    /// Says no.
    Refuse(ReconfigureRefusal),
    /// Says no, although it would have said yes a moment ago.
    RefuseAfterAll(ReconfigureRefusal),
    /// Makes it, and fails the next so.
    MakeThenFail(Refused),
    /// Fails it so, although it would have said yes a moment ago.
    Fail(Refused),
    /// Makes it, and loses leadership before it can say so.
    MakeUnknown,
    /// Is in the middle of it, and loses leadership.
    LeaveJoint,
    /// Never answers.
    Hang,
}

#[derive(Default)]
struct World {
    index: u64,
    term: u64,
    leader: Option<u64>,
    proposals: Proposals,
    membership: Membership,
    changes: Changes,
    /// What the leader was asked to change.
    changed: Vec<Change>,
    transfer_refusal: Option<TransferRefusal>,
    refuse_reads: bool,
    gates: BTreeMap<&'static str, &'static str>,
    proposed: usize,
    reads: usize,
    hops: usize,
    cut_off: BTreeSet<u64>,
    hanging: BTreeSet<u64>,
    answers_lost: BTreeSet<u64>,
    /// Replies that will never come, kept so that they are not dropped.
    never: Vec<Request>,
}

struct Node {
    leadership: watch::Sender<Arc<Leadership>>,
    machine: Arc<RwLock<Machine>>,
}

struct Shared {
    world: Mutex<World>,
    /// What node 2 signs with.
    authority: Option<AuthorityFiles>,
    nodes: BTreeMap<u64, Node>,
    apis: OnceLock<BTreeMap<u64, Api>>,
}

/// Three nodes.
pub struct Cluster(Arc<Shared>);

fn member(id: u64) -> Member {
    let at = |port| format!("10.0.0.{id}:{port}");
    Member { id: NodeId(id), peer: at(7100), proxy: at(8080), hop: at(8080), api: at(9090), zone: None }
}

impl Cluster {
    /// Without a token.
    pub fn led_by(leader: u64) -> Self {
        Self::new(leader, None, true, None)
    }

    /// Led by node 1, with `lease_reads = false`.
    pub fn without_lease_reads() -> Self {
        Self::new(1, None, false, None)
    }

    /// Led by node 1, with a token.
    pub fn guarded() -> Self {
        Self::new(1, Some(Token::new(TOKEN)), true, None)
    }

    /// Led by node 1, with a token; node 2 can sign with this authority.
    pub fn signing(authority: AuthorityFiles) -> Self {
        Self::new(1, Some(Token::new(TOKEN)), true, Some(authority))
    }

    fn new(leader: u64, token: Option<Token>, lease_reads: bool, authority: Option<AuthorityFiles>) -> Self {
        let node = |id| Node {
            leadership: watch::Sender::new(Arc::new(Leadership::unknown(NodeId(id)))),
            machine: Arc::new(RwLock::new(Machine::new((1..=3).map(member).collect()))),
        };
        let membership = Membership::of_voters((1..=3).map(NodeId));
        let gates = [("orders", "open")].into();
        let world = World { term: 6, membership, gates, ..World::default() };
        let shared = Arc::new(Shared {
            world: Mutex::new(world),
            authority,
            nodes: (1..=3).map(|id| (id, node(id))).collect(),
            apis: OnceLock::new(),
        });
        let apis = (1..=3).map(|id| (id, start(&shared, id, token.clone(), lease_reads))).collect();
        assert!(shared.apis.set(apis).is_ok());
        let cluster = Self(shared);
        cluster.elect(Some(leader));
        cluster
    }

    pub fn api(&self, node: u64) -> Api {
        self.0.apis.get().unwrap()[&node].clone()
    }

    fn world<R>(&self, change: impl FnOnce(&mut World) -> R) -> R {
        change(&mut self.0.world.lock().unwrap())
    }

    /// A new term for all, or nobody leads.
    pub fn elect(&self, leader: Option<u64>) {
        self.0.elect(leader);
    }

    /// `leader` leads a new term of which node `out` has not heard.
    pub fn elect_without(&self, leader: u64, out: u64) {
        let before = self.0.nodes[&out].leadership.borrow().clone();
        self.0.elect(Some(leader));
        self.0.nodes[&out].leadership.send_replace(before);
    }

    /// Nodes 1 and 2 each think that the other leads.
    pub fn confuse(&self) {
        for (node, leader) in [(1, 2), (2, 1)] {
            self.0.nodes[&node].leadership.send_modify(|seen| {
                let role = RoleKind::Follower;
                *seen = Arc::new(Leadership { leader: Some(NodeId(leader)), role, ..(**seen).clone() });
            });
        }
        self.world(|world| world.leader = Some(3));
    }

    /// The leader's lease lies in the past.
    pub fn end_lease(&self) {
        for node in self.0.nodes.values() {
            node.leadership.send_modify(|seen| {
                *seen = Arc::new(Leadership { lease_until: Some(Instant(1)), ..(**seen).clone() });
            });
        }
    }

    pub fn leader(&self) -> Option<u64> {
        self.world(|world| world.leader)
    }
    pub fn reads(&self) -> usize {
        self.world(|world| world.reads)
    }
    pub fn proposals(&self) -> usize {
        self.world(|world| world.proposed)
    }
    pub fn hops(&self) -> usize {
        self.world(|world| world.hops)
    }
    /// The gate of this route, which may be a new one, on every node.
    pub fn gate(&self, route: &'static str, state: &'static str) {
        self.world(|world| world.gates.insert(route, state));
    }
    pub fn refuse_reads(&self, refuse: bool) {
        self.world(|world| world.refuse_reads = refuse);
    }
    pub fn refuse_transfer(&self, why: TransferRefusal) {
        self.world(|world| world.transfer_refusal = Some(why));
    }
    pub fn on_propose(&self, proposals: Proposals) {
        self.world(|world| world.proposals = proposals);
    }
    pub fn on_change(&self, changes: Changes) {
        self.world(|world| world.changes = changes);
    }
    /// Everything that the leader was asked to change, in order.
    pub fn changed(&self) -> Vec<Change> {
        self.world(|world| world.changed.clone())
    }
    /// A command that comes from nowhere.
    pub fn apply(&self, op: Op) -> Answer {
        self.0.append(self.0.encoded(op)).1.expect("a command is answered")
    }
    pub fn membership(&self) -> Membership {
        self.world(|world| world.membership.clone())
    }
    /// A change behind everybody's back, and the end of one that was left joint.
    pub fn enter(&self, membership: Membership) {
        self.0.enter(membership);
    }
    /// Who takes part since the cluster was founded: there is no entry of it that the registry could know.
    pub fn found(&self, membership: Membership) {
        self.world(|world| world.membership = membership);
    }
    /// Where `node` can be reached, by the registry.
    pub fn place_of(&self, node: u64) -> Option<Member> {
        self.0.nodes[&1].machine.read().unwrap().member(NodeId(node)).cloned()
    }
    /// Nothing reaches this node.
    pub fn cut_off(&self, node: u64) {
        self.world(|world| world.cut_off.insert(node));
    }
    /// This node's loop stops answering.
    pub fn hang(&self, node: u64) {
        self.world(|world| world.hanging.insert(node));
    }
    /// This node acts, and its answers are lost.
    pub fn lose_answers_of(&self, node: u64) {
        self.world(|world| world.answers_lost.insert(node));
    }
}

fn start(shared: &Arc<Shared>, id: u64, token: Option<Token>, lease_reads: bool) -> Api {
    let (requests, inbox) = mpsc::channel(64);
    let node = &shared.nodes[&id];
    let handle = Handle::new(NodeId(id), requests, node.leadership.subscribe(), Arc::clone(&node.machine));
    tokio::spawn(play(Arc::clone(shared), id, inbox));
    let resources = {
        let shared = Arc::clone(shared);
        move || shared.resources()
    };
    let context = ApiContext {
        handle,
        cluster: "test".into(),
        resources: Arc::new(resources),
        metrics: Metrics::new(),
        token,
        lease_reads,
        remote: remote(Arc::clone(shared), id),
        config_summary: serde_json::json!({"heartbeat_interval_ms": 50}),
        incarnation: 100 + id,
        authority: shared.authority.clone().filter(|_| id == 2),
        settings: "[raft]\nlease_reads = true\n".into(),
    };
    Api::with_limits(context, LIMITS)
}

fn remote(shared: Arc<Shared>, from: u64) -> Remote {
    Arc::new(move |to, request| hop(Arc::clone(&shared), from, to, request).boxed())
}

async fn hop(
    shared: Arc<Shared>,
    from: u64,
    to: NodeId,
    request: HttpRequest<Bytes>,
) -> Result<Response<Bytes>, HopError> {
    let (cut_off, lost) = {
        let mut world = shared.world.lock().unwrap();
        world.hops += 1;
        (world.cut_off.contains(&to.0), world.answers_lost.contains(&to.0))
    };
    if cut_off {
        return Err(HopError::NotSent("no route".into()));
    }
    assert!(!request.headers().contains_key("authorization"), "the token stays where it was checked");
    let api = shared.apis.get().unwrap()[&to.0].clone();
    let response = api.handle(Caller::Node(NodeId(from)), request).await;
    if lost { Err(HopError::Lost("reset".into())) } else { Ok(response) }
}

async fn play(shared: Arc<Shared>, id: u64, mut inbox: mpsc::Receiver<Request>) {
    while let Some(request) = inbox.recv().await {
        let hanging = shared.world.lock().unwrap().hanging.contains(&id);
        if hanging {
            shared.world.lock().unwrap().never.push(request);
            continue;
        }
        shared.serve(id, request);
    }
}

impl Shared {
    fn serve(&self, id: u64, request: Request) {
        match request {
            Request::Propose { op, reply, .. } => self.propose(id, op, reply),
            Request::Read { reply } => drop(reply.send(self.read())),
            Request::Transfer { to, reply, .. } => drop(reply.send(self.transfer(id, to))),
            Request::Reconfigure { change, reply } => self.reconfigure(id, change, reply),
            Request::Judge { reply, .. } => drop(reply.send(self.judge(id))),
            Request::View { reply } => drop(reply.send(self.view(id))),
        }
    }

    fn propose(&self, id: u64, op: Op, reply: oneshot::Sender<Result<Applied, Refused>>) {
        let mut world = self.world.lock().unwrap();
        if world.leader != Some(id) {
            drop(reply.send(Err(Refused::NotLeader { leader: world.leader.map(NodeId) })));
            return;
        }
        world.proposed += 1;
        match world.proposals.clone() {
            Proposals::Apply => {}
            Proposals::Refuse(refused) => return drop(reply.send(Err(refused))),
            Proposals::RefuseOnce(refused) => {
                world.proposals = Proposals::Apply;
                return drop(reply.send(Err(refused)));
            }
            Proposals::Answer(answer) => {
                let (index, term) = (LogIndex(world.index + 1), Term(world.term));
                return drop(reply.send(Ok(Applied { index, term, answer })));
            }
            Proposals::Hang => {
                let decided_in = Term(world.term);
                return world.never.push(Request::Propose { decided_in, op, reply });
            }
        }
        drop(world);
        let (LogId { index, term }, answer) = self.append(self.encoded(op));
        drop(reply.send(Ok(Applied { index, term, answer: answer.unwrap() })));
    }

    fn encoded(&self, op: Op) -> Payload {
        let decided_in = Term(self.world.lock().unwrap().term);
        Payload::Command(postcard::to_stdvec(&Command { decided_in, op }).unwrap().into())
    }

    /// Applies the next entry everywhere.
    fn append(&self, payload: Payload) -> (LogId, Option<Answer>) {
        let mut world = self.world.lock().unwrap();
        world.index += 1;
        let id = LogId::new(Term(world.term), LogIndex(world.index));
        let index = id.index;
        let entry = Entry { id, payload };
        let mut answer = None;
        for node in self.nodes.values() {
            answer = node.machine.write().unwrap().apply(&entry);
            node.leadership.send_modify(|seen| {
                *seen = Arc::new(Leadership { commit_index: index, last_applied: index, ..(**seen).clone() });
            });
        }
        (id, answer)
    }

    fn enter(&self, membership: Membership) -> LogId {
        self.world.lock().unwrap().membership = membership.clone();
        self.append(Payload::Membership(membership)).0
    }

    fn reconfigure(&self, id: u64, change: Change, reply: oneshot::Sender<Result<LogId, Refused>>) {
        let (membership, changes) = {
            let mut world = self.world.lock().unwrap();
            if world.leader != Some(id) {
                let leader = world.leader.map(NodeId);
                return drop(reply.send(Err(Refused::NotLeader { leader })));
            }
            world.changed.push(change.clone());
            (world.membership.clone(), world.changes.clone())
        };
        assert!(!membership.is_joint(), "the API waits for the end of a change");
        let next = changed(&membership, &change);
        let answer = match changes {
            Changes::Make => Ok(self.enter(next)),
            Changes::Refuse(why) | Changes::RefuseAfterAll(why) => Err(Refused::Reconfigure(why)),
            Changes::MakeThenFail(how) => {
                self.world.lock().unwrap().changes = Changes::Fail(how);
                Ok(self.enter(next))
            }
            Changes::Fail(how) => Err(how),
            Changes::MakeUnknown => {
                self.enter(next);
                Err(Refused::Unknown)
            }
            Changes::LeaveJoint => {
                self.enter(Membership { voters_old: Some(membership.voters), ..next });
                Err(Refused::Unknown)
            }
            Changes::Hang => {
                return self.world.lock().unwrap().never.push(Request::Reconfigure { change, reply });
            }
        };
        drop(reply.send(answer));
    }

    fn judge(&self, id: u64) -> Result<(), Refused> {
        let world = self.world.lock().unwrap();
        match world.changes {
            _ if world.leader != Some(id) => Err(Refused::NotLeader { leader: world.leader.map(NodeId) }),
            Changes::Refuse(why) => Err(Refused::Reconfigure(why)),
            _ => Ok(()),
        }
    }

    fn read(&self) -> Result<ReadPoint, Refused> {
        let mut world = self.world.lock().unwrap();
        world.reads += 1;
        match world.leader {
            Some(_) if !world.refuse_reads => {
                Ok(ReadPoint { index: LogIndex(world.index), term: Term(world.term) })
            }
            leader => Err(Refused::NotLeader { leader: leader.map(NodeId) }),
        }
    }

    fn transfer(&self, id: u64, to: Option<NodeId>) -> Result<Transferred, Refused> {
        let (leader, from, refusal) = {
            let world = self.world.lock().unwrap();
            (world.leader, world.term, world.transfer_refusal)
        };
        if leader != Some(id) {
            return Err(Refused::NotLeader { leader: leader.map(NodeId) });
        }
        if let Some(why) = refusal {
            return Err(Refused::Transfer(why));
        }
        let to = to.unwrap_or(NodeId(id % 3 + 1));
        self.elect(Some(to.0));
        Ok(Transferred { from_term: Term(from), to, term: Term(from + 1) })
    }

    fn elect(&self, leader: Option<u64>) {
        let (term, index) = {
            let mut world = self.world.lock().unwrap();
            world.leader = leader;
            world.term += 1;
            (Term(world.term), LogIndex(world.index))
        };
        for (id, node) in &self.nodes {
            let leads = leader == Some(*id);
            node.leadership.send_replace(Arc::new(Leadership {
                node: NodeId(*id),
                role: if leads { RoleKind::Leader } else { RoleKind::Follower },
                term,
                leader: leader.map(NodeId),
                fence: leads.then_some(term),
                lease_until: leads.then(|| clock::now() + Duration::from_secs(60)),
                commit_index: index,
                last_applied: index,
            }));
        }
    }

    fn view(&self, id: u64) -> View {
        let seen = self.nodes[&id].leadership.borrow().clone();
        let (index, membership) = {
            let world = self.world.lock().unwrap();
            (LogIndex(world.index), world.membership.clone())
        };
        let leads = seen.role == RoleKind::Leader;
        let life = |id: NodeId| Some(Life { incarnation: 100 + id.0, boot: 1 });
        let peer = |id: NodeId| PeerView {
            id,
            life: life(id),
            match_index: index,
            next_index: index.next(),
            last_contact: Some(clock::now()),
            commit_index: index,
            last_applied: index,
        };
        View {
            id: NodeId(id),
            role: seen.role,
            term: seen.term,
            leader: seen.leader,
            last_log: LogId::new(seen.term, index),
            log_base: LogId::ZERO,
            snapshot: None,
            commit_index: index,
            last_applied: index,
            peers: membership
                .members()
                .into_iter()
                .filter(|other| leads && other.0 != id)
                .map(peer)
                .collect(),
            membership,
            fence: seen.fence,
            lease_until: seen.lease_until,
            quorum_contact: None,
            pending_reads: 0,
        }
    }

    fn resources(&self) -> Vec<ResourceStatus> {
        let world = self.world.lock().unwrap();
        let resource = |(name, gate): (&&str, &&str)| ResourceStatus {
            name: (*name).into(),
            fence: FenceMode::Enforced,
            gate: (*gate).into(),
            fenced_term: Some(Term(world.term)),
        };
        world.gates.iter().map(resource).collect()
    }
}

/// `change` made to `membership`, without a word about whether it may be made.
fn changed(membership: &Membership, change: &Change) -> Membership {
    let mut next = membership.clone();
    for (node, incarnation) in &change.add {
        assert!(next.learners.insert(*node), "{node} is there already");
        next.incarnations.extend(incarnation.map(|incarnation| (*node, incarnation)));
    }
    for node in &change.promote {
        assert!(next.learners.remove(node) && next.voters.insert(*node), "{node} is no learner");
    }
    for node in &change.demote {
        assert!(next.voters.remove(node) && next.learners.insert(*node), "{node} is no voter");
    }
    for node in &change.remove {
        assert!(next.voters.remove(node) || next.learners.remove(node), "{node} is no member");
    }
    next.completed()
}
