use std::fs;
use std::path::Path;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::config::parse_node;
use crate::ids::{IoSeq, LogIndex};
use crate::raft::entry::{Durable, Entry, HardState, Payload, Persist};
use crate::registry::command::{Command, Condition, Op};
use crate::storage::snapshots::Snapshots;
use crate::storage::{FILE_NAME, Opened, Store};
use crate::time::Duration;
use crate::transport::identity::Subject;

const IN_TERM: Term = Term(7);

/// A node of three, with certificates and without routes.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        crate::certs::init("orders", dir.path()).unwrap();
        for id in 1..=3 {
            crate::certs::issue(dir.path(), &Subject::Node(NodeId(id)), dir.path(), &[]).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, id: u64) -> NodeConfig {
        let dir = self.dir.path().display();
        let member = |id: u64| {
            format!("[[cluster.members]]\nid = {id}\npeer = 'h{id}:1'\nproxy = 'h{id}:2'\napi = 'h{id}:3'\n")
        };
        let members: String = (1..=3).map(member).collect();
        let text = format!(
            "[node]\nid = {id}\ndata_dir = '{dir}/data-{id}'\n[cluster]\nname = 'orders'\n{members}\
             [tls]\nca = '{dir}/ca.pem'\ncert = '{dir}/node-{id}.pem'\nkey = '{dir}/node-{id}.key'\n"
        );
        parse_node("node.toml", &text, []).unwrap().config
    }

    /// A backup of `keys` keys.
    fn backup(&self, keys: u64) -> Backup {
        let path = self.path("a.backup");
        let membership = Membership::of_voters((1..=3).map(NodeId));
        let (cluster, node) = ("orders".to_owned(), NodeId(2));
        let taken = Taken { cluster, node, origin: Origin::Linearizable, term: Term(9), membership };
        let mut machine = Machine::new(Vec::new());
        for entry in entries(keys) {
            machine.apply(&entry);
        }
        let header = Header::describe(&machine, taken);
        backup::save(&path, true, &header, &machine).unwrap()
    }
}

fn entries(count: u64) -> Vec<Entry> {
    let entry = |index: u64| {
        let value = Bytes::from(format!("value {index}"));
        let op = Op::Put { key: format!("key-{index}"), value, condition: Condition::None };
        let command = postcard::to_stdvec(&Command { decided_in: IN_TERM, op }).unwrap();
        Entry { id: LogId::new(IN_TERM, LogIndex(index)), payload: Payload::Command(Bytes::from(command)) }
    };
    (1..=count).map(entry).collect()
}

fn identity(config: &NodeConfig) -> Identity {
    // What a start brings along is not what counts in a directory that is there.
    Identity { cluster: config.cluster.clone(), node: config.id(), membership: Membership::default() }
}

/// What a start of the node finds.
fn start(config: &NodeConfig) -> (Opened, Machine) {
    let (_store, opened) =
        Store::open(&config.data_dir, &identity(config), Duration::from_millis(150)).unwrap();
    let machine = match &opened.durable.snapshot {
        Some(snapshot) => Snapshots::open(&config.data_dir, Some(snapshot)).unwrap().load(snapshot).unwrap(),
        None => Machine::new(Vec::new()),
    };
    (opened, machine)
}

fn restored(site: &Site, id: u64, floor: u64) -> Founded {
    let wish = Wish::At(Term(floor));
    tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(restore(&site.config(id), site.backup(5), wish, false))
        .unwrap()
}

fn recovered(site: &Site, id: u64, members: Option<&[u64]>) -> Result<Founded, DisasterError> {
    let config = site.config(id);
    let members = members.map(|ids| ids.iter().copied().map(NodeId).collect());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(recover(&config, survivor(&config)?, members, Wish::Auto))
}

/// The directory of a node that has voted in term 8 and holds five entries.
fn with_history(site: &Site, id: u64) {
    let config = site.config(id);
    let (mut store, _) =
        Store::open(&config.data_dir, &identity(&config), Duration::from_millis(150)).unwrap();
    let hard_state = Some(HardState { current_term: Term(8), voted_for: Some(NodeId(3)) });
    let (pins, append) = (vec![(NodeId(2), 22), (NodeId(3), 33)], entries(5));
    let io = IoSeq(1);
    store.write(&[Persist { io, hard_state, pins, compact: None, truncate_from: None, append }]).unwrap();
}

fn voters(membership: &Membership) -> Vec<u64> {
    assert!(membership.voters_old.is_none() && membership.learners.is_empty());
    membership.voters.iter().map(|node| node.0).collect()
}

/// DR-1, DR-2, DR-4.
#[test]
fn a_restored_node_begins_with_the_state_above_the_floor() {
    let site = Site::new();
    let founded = restored(&site, 1, 57);
    let (opened, machine) = start(&site.config(1));
    let Durable { hard_state, membership, base, log, .. } = opened.durable;
    assert_eq!(base, LogId::new(Term(2_000_000_000_057), LogIndex(1_000_000_000_005)));
    assert_eq!(hard_state, HardState { current_term: base.term, voted_for: None });
    assert_eq!((voters(&membership), log.len()), (vec![1, 2, 3], 0));
    assert_eq!((founded.floor, founded.last), (Term(57), base));
    assert_eq!(machine.applied(), base);
    assert_eq!(machine.membership(), &membership);
    let value = machine.key("key-3").unwrap();
    assert_eq!((value.value.as_ref(), value.version), (&b"value 3"[..], LogIndex(3)));
    assert_eq!(machine.key_count(), 5);
    assert_eq!(opened.promised, Duration::ZERO, "nothing was promised to anybody");
}

/// DR-1: a backup knows terms too.
#[test]
fn a_floor_below_the_backups_term_does_not_count() {
    let site = Site::new();
    assert_eq!(restored(&site, 1, 2).floor, Term(9));
}

/// DR-3: they know each other, and nobody else.
#[test]
fn nodes_of_the_same_backup_and_floor_are_one_cluster() {
    let site = Site::new();
    let starts: Vec<Opened> = (1..=3)
        .map(|id| {
            restored(&site, id, 57);
            start(&site.config(id)).0
        })
        .collect();
    let own: BTreeMap<NodeId, u64> =
        (1..).map(NodeId).zip(starts.iter().map(|opened| opened.life.incarnation)).collect();
    assert_eq!(own.values().collect::<BTreeSet<_>>().len(), 3);
    for opened in &starts {
        assert_eq!(opened.durable.membership.incarnations, own);
        assert_eq!(opened.durable.snapshot, starts[0].durable.snapshot);
    }
}

/// DR-3.
#[test]
fn another_floor_or_another_backup_is_another_cluster() {
    let site = Site::new();
    let incarnation = |floor, keys| {
        let (config, backup) = (site.config(1), site.backup(keys));
        let _ = fs::remove_dir_all(&config.data_dir);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(restore(&config, backup, Wish::At(Term(floor)), false)).unwrap();
        start(&config).0.life.incarnation
    };
    let first = incarnation(57, 5);
    assert_eq!(incarnation(57, 5), first);
    assert_ne!(incarnation(58, 5), first);
    assert_ne!(incarnation(57, 6), first);
}

#[test]
fn a_directory_that_is_not_empty_is_not_restored_into() {
    let site = Site::new();
    let config = site.config(1);
    let refused = |file: &str| {
        fs::create_dir_all(&config.data_dir).unwrap();
        fs::write(config.data_dir.join(file), "x").unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let restored = runtime.block_on(restore(&config, site.backup(1), Wish::At(Term(57)), true));
        let names = fs::read_dir(&config.data_dir).unwrap().count();
        fs::remove_dir_all(&config.data_dir).unwrap();
        (restored.map(drop).map_err(|e| e.to_string()), names)
    };
    for file in [FILE_NAME, "notes.txt", "lock"] {
        let (restored, names) = refused(file);
        let error = restored.unwrap_err();
        assert!(error.contains("is not empty") && error.contains(file), "{error}");
        assert_eq!(names, 1);
    }
    let (restored, _) = refused("lost+found");
    restored.unwrap();
}

#[test]
fn the_backup_of_another_cluster_needs_force() {
    let site = Site::new();
    let mut backup = site.backup(1);
    backup.header.cluster = "bills".into();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let run = |force| runtime.block_on(restore(&site.config(1), backup.clone(), Wish::At(Term(57)), force));
    let error = run(false).unwrap_err().to_string();
    assert!(error.contains("of cluster \"bills\"") && error.contains("--force"), "{error}");
    assert!(!site.config(1).data_dir.exists());
    run(true).unwrap();
}

/// DR-1, DR-2, DR-4: all that the disk holds, under far higher terms.
#[test]
fn a_recovered_node_is_a_cluster_of_its_own_with_all_that_it_held() {
    let site = Site::new();
    with_history(&site, 1);
    let founded = recovered(&site, 1, None).unwrap();
    assert_eq!(founded.floor, Term(8));
    let (opened, machine) = start(&site.config(1));
    let term = Term(2_000_000_000_008);
    assert_eq!(opened.durable.hard_state, HardState { current_term: term, voted_for: None });
    assert_eq!(voters(&opened.durable.membership), [1]);
    assert!(opened.durable.pinned.is_empty(), "the old members are none");
    assert_eq!(machine.key_count(), 5, "also what may never have been committed");
}

/// DR-5: the old files are whole, and so is the state that they hold.
#[test]
fn a_recovery_keeps_what_it_replaces() {
    let site = Site::new();
    with_history(&site, 1);
    let file = site.config(1).data_dir.join(FILE_NAME);
    let before = fs::read(&file).unwrap();
    let kept = recovered(&site, 1, None).unwrap().kept.unwrap();
    assert_eq!(fs::read(kept.join(FILE_NAME)).unwrap(), before);
    start(&site.config(1));
    assert_eq!(fs::read(kept.join(FILE_NAME)).unwrap(), before, "nor does the new node write to it");
    let state = Backup::read(&kept.join(STATE_FILE)).unwrap();
    assert_eq!((state.header.origin, state.header.keys, state.header.term), (Origin::Disk, 5, Term(8)));

    // Put back, it is the old node again.
    fs::copy(kept.join(FILE_NAME), &file).unwrap();
    let (opened, _) = start(&site.config(1));
    assert_eq!(opened.durable.hard_state, HardState { current_term: Term(8), voted_for: Some(NodeId(3)) });
}

/// DR-5: until the last step, the node is the old one.
#[test]
fn a_failed_recovery_leaves_the_old_node() {
    let site = Site::new();
    with_history(&site, 1);
    let config = site.config(1);
    let looked = survivor(&config).unwrap();
    founding::keep(&config.data_dir, &looked).unwrap();
    let machine = found_on(looked.machine.clone(), "orders", Term(57), &[NodeId(1)].into());
    // The data file can't be made under its first name.
    let obstacle = config.data_dir.join("termgate.redb.new");
    fs::create_dir(&obstacle).unwrap();
    founding::replace(&config.data_dir, looked, &founding_of(&config, &machine)).unwrap_err();
    fs::remove_dir(&obstacle).unwrap();
    let (opened, _) = start(&config);
    assert_eq!(opened.durable.hard_state, HardState { current_term: Term(8), voted_for: Some(NodeId(3)) });
    assert_eq!(opened.durable.log, entries(5));
}

/// DR-5: a snapshot is a part of it. A second recovery begins with the first one's.
#[test]
fn a_recovered_node_can_be_recovered_again() {
    let site = Site::new();
    with_history(&site, 1);
    let first = recovered(&site, 1, None).unwrap();
    let second = recovered(&site, 1, None).unwrap();
    assert!(second.floor > first.floor && second.last > first.last);
    let kept = second.kept.unwrap();
    assert_ne!(Some(&kept), first.kept.as_ref());
    let snapshots = fs::read_dir(kept.join("snapshots")).unwrap().count();
    assert_eq!(snapshots, 1);
    assert_eq!(start(&site.config(1)).1.key_count(), 5);
}

/// DR-3: the others are restored from what the survivor held, and know it.
#[test]
fn a_recovered_node_and_those_restored_from_its_state_are_one_cluster() {
    let site = Site::new();
    with_history(&site, 1);
    let founded = recovered(&site, 1, Some(&[1, 2, 3])).unwrap();
    let state = Backup::read(&founded.kept.unwrap().join(STATE_FILE)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(restore(&site.config(2), state, Wish::At(founded.floor), false)).unwrap();
    let (one, two) = (start(&site.config(1)).0, start(&site.config(2)).0);
    assert_eq!(one.durable.snapshot, two.durable.snapshot);
    assert_eq!(one.durable.membership.incarnations[&NodeId(2)], two.life.incarnation);
    assert_eq!(two.durable.membership.incarnations[&NodeId(1)], one.life.incarnation);
}

#[test]
fn only_configured_members_can_be_recovered() {
    let site = Site::new();
    with_history(&site, 1);
    for (members, expected) in [(&[1, 9][..], "names 9"), (&[2, 3], "does not name this node, 1")] {
        let error = recovered(&site, 1, Some(members)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(!site.config(1).data_dir.join("before-recovery-1").exists());
}

#[test]
fn only_the_stopped_node_itself_is_recovered() {
    let site = Site::new();
    let missing = recovered(&site, 1, None).unwrap_err().to_string();
    assert!(missing.contains("holds no node's data"), "{missing}");
    assert!(!site.config(1).data_dir.exists(), "a look makes nothing");
    with_history(&site, 1);
    let mut config = site.config(2);
    config.data_dir = site.config(1).data_dir;
    assert!(survivor(&config).unwrap_err().to_string().contains("belongs to node 1"));
    let _running = Store::open(&config.data_dir, &identity(&site.config(1)), Duration::ZERO).unwrap();
    assert!(survivor(&site.config(1)).unwrap_err().to_string().contains("in use by another process"));
}

/// A look is no start.
#[test]
fn a_look_changes_nothing() {
    let site = Site::new();
    with_history(&site, 1);
    let dir = site.config(1).data_dir;
    let bytes = |dir: &Path| fs::read(dir.join(FILE_NAME)).unwrap();
    let before = bytes(&dir);
    let looked = look(&dir).unwrap();
    assert_eq!((looked.term, looked.node, looked.machine.key_count()), (Term(8), NodeId(1), 5));
    drop(looked);
    assert_eq!(bytes(&dir), before);
}
