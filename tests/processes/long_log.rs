//! A restart with so much to apply that a single turn of the loop takes longer than a lease lasts.

use crate::machine;
use crate::support::cluster::{Cluster, Plan};
use crate::told::write;

const VALUES: usize = 80;
const VALUE_BYTES: usize = 1024 * 1024;
/// A gate that misses its lease misses it most of the time, not every time.
const RESTARTS: u64 = 5;

/// Nobody else answers this node's beats, so nothing but its own next turn renews the lease; the gate
/// must notice.
#[test]
fn a_single_node_with_a_long_log_takes_writes_again_after_every_restart() {
    let _machine = machine();
    let mut cluster = Cluster::start(Plan::new(1));
    let value = vec![b'v'; VALUE_BYTES];
    let put = |number: &usize| {
        let answer = cluster.api(1, "PUT", &format!("/registry/keys/{number}"), &value);
        answer.is_ok_and(|answer| answer.status == 201)
    };
    // A busy machine may refuse some.
    assert_eq!((0..2 * VALUES).filter(put).take(VALUES).count(), VALUES, "values are acknowledged");
    for count in 1..=RESTARTS {
        cluster.kill_node(1);
        cluster.start_node(1);
        cluster.wait_whole();
        let (seq, _) = write(cluster.at(1).proxy, &format!("after restart {count}"));
        assert_eq!(seq, count);
    }
}
