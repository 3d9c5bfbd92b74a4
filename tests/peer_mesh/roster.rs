//! The membership changes while the mesh runs, and nodes are heard that nobody has named (W-11 to W-14).

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use termgate::ids::NodeId;
use termgate::registry::limits::ADDRESS_BYTES;
use termgate::transport::codec::{self, Introduction};

use crate::pki::{
    Leaf, Pki, counted, dial_from, free_address, half_open, hostile, hostile_config, until, within,
};
use crate::{ALPN, INBOX, NOWHERE, Node, append, ask, deaf_peer, dial, pair};

/// A node that knows where it listens, and so can say it.
async fn announcing(id: u64, pki: &Pki, members: &[(u64, &str)]) -> Node {
    Node::listen(id, pki.node(id), members, free_address(), INBOX).await
}

/// Node 2, which knows nobody, and node 1, which dials it and says where it listens itself.
async fn stranger_and_host(pki: &Pki) -> (Node, Node) {
    let host = Node::start(2, pki.node(2), &[]).await;
    let stranger = announcing(1, pki, &[(2, &host.address().to_string())]).await;
    (stranger, host)
}

impl Node {
    async fn lost(&self, id: u64) {
        until("the end of the connection", || !self.net.connected().contains(&NodeId(id))).await;
    }

    /// Says `id` again and again until it is heard: while a connection comes up, messages may be lost.
    async fn reaches(&self, other: &mut Self, id: u64, to: u64) {
        let heard = async {
            loop {
                self.net.send(ask(id, to, 1));
                let next = tokio::time::timeout(Duration::from_millis(5), other.inbox.recv());
                if let Ok(Some(message)) = next.await {
                    break message;
                }
            }
        };
        assert_eq!(within("a message", heard).await, ask(id, to, 1));
    }
}

// ---- members come, move and go ----------------------------------------------------------------

/// W-11.
#[tokio::test]
async fn a_member_that_is_added_while_this_runs_is_dialled_and_heard() {
    let pki = Pki::new();
    let (mut a, mut b) = dial(pki.node(1), pki.node(2), &[(3, NOWHERE)]).await;
    crate::both_count(&b, &a, "not-a-member").await;
    b.knows(&[(1, &a.address().to_string()), (3, NOWHERE)]);
    a.reaches(&mut b, 1, 2).await;
    b.reaches(&mut a, 2, 1).await;
    assert_eq!((a.net.connected(), b.net.connected()), (vec![NodeId(2)], vec![NodeId(1)]));
}

/// W-11.
#[tokio::test]
async fn a_member_with_a_new_address_is_dialled_there_and_hears_nothing_that_was_for_the_old_one() {
    let pki = Pki::new();
    let (a, old) = deaf_peer(&pki, (1, INBOX.1)).await;
    let mut new = Node::start(2, pki.node(2), &[(1, &a.address().to_string())]).await;
    a.knows(&[(2, &new.address().to_string())]);
    assert!(a.net.connected().is_empty(), "the old connection counts for the new address");
    a.connected_to(2).await;
    a.net.send(ask(1, 2, 9));
    a.net.send(append(1, 2, 100));
    let heard = [new.hears().await, new.hears().await];
    assert!(heard.contains(&ask(1, 2, 9)) && heard.contains(&append(1, 2, 100)), "{heard:?}");
    assert_eq!(old.refused_by_peer("removed"), 0, "it has moved, and is not removed");
}

/// W-5, W-14.
#[tokio::test]
async fn a_removed_member_is_told_and_refused_until_it_is_added_again() {
    let pki = Pki::new();
    let (mut a, mut b) = pair(&pki).await;
    // A message has passed: the connection is in use, and not just about to be refused.
    b.net.send(ask(2, 1, 1));
    assert_eq!(a.hears().await, ask(2, 1, 1));
    let (start, address) = (Instant::now(), b.address().to_string());
    a.follows(&[(1, "self")], &[2], false);
    assert!(a.net.connected().is_empty());
    b.lost(1).await;
    assert!(start.elapsed() < Duration::from_secs(1), "it waited for the idle timeout");
    // Both connections were in use, and b hears on both why they end.
    until("the removed side's count", || b.refused_by_peer("removed") == 2).await;
    // It tries again, but at the pace of one who was refused.
    until("a refusal", || a.refused("removed") > 0).await;
    assert!(start.elapsed() > Duration::from_millis(900), "it dialled again after {:?}", start.elapsed());
    until("the other side's count", || b.refused_by_peer("removed") > 2).await;
    assert_eq!(a.refused("not-a-member") + b.refused_by_peer("not-a-member"), 0);

    a.knows(&[(2, &address)]);
    a.connected_to(2).await;
    a.reaches(&mut b, 1, 2).await;
    b.reaches(&mut a, 2, 1).await;
}

/// W-5, W-14: also on the connection that the others dialled, when its own never came up.
#[tokio::test]
async fn a_removed_member_is_told_by_who_dialled_it() {
    let pki = Pki::new();
    let (a, mut b) = dial(pki.node(1), pki.node(2), &[(1, NOWHERE)]).await;
    // Let in, and not just about to be.
    a.reaches(&mut b, 1, 2).await;
    a.follows(&[], &[2], false);
    until("the removed side's count", || b.refused_by_peer("removed") == 1).await;
}

/// W-11: an addition that was never committed and is gone from the log is no removal.
#[tokio::test]
async fn a_member_that_is_not_named_any_more_is_closed_without_being_called_removed() {
    let pki = Pki::new();
    let (a, b) = pair(&pki).await;
    a.knows(&[]);
    assert!(a.net.connected().is_empty());
    b.lost(1).await;
    crate::both_count(&a, &b, "not-a-member").await;
    assert_eq!(b.refused_by_peer("removed") + a.refused("removed"), 0);
}

/// W-11.
#[tokio::test]
async fn of_two_changes_at_once_the_last_one_holds() {
    let pki = Pki::new();
    let (mut a, mut b) = pair(&pki).await;
    let address = b.address().to_string();
    a.follows(&[], &[2], false);
    a.knows(&[(2, &address)]);
    a.connected_to(2).await;
    a.reaches(&mut b, 1, 2).await;
    b.reaches(&mut a, 2, 1).await;
    a.knows(&[(2, NOWHERE)]);
    a.knows(&[(2, &address)]);
    a.connected_to(2).await;
    a.reaches(&mut b, 1, 2).await;
    a.knows(&[(2, &address), (3, NOWHERE)]);
    let before = b.refused_by_peer("removed");
    a.follows(&[(3, NOWHERE)], &[2], false);
    until("the removed side's count", || b.refused_by_peer("removed") > before).await;
    assert!(a.net.connected().is_empty());
}

// ---- strangers --------------------------------------------------------------------------------

/// W-12.
#[tokio::test]
async fn a_stranger_is_let_in_while_strangers_are_heard_and_not_longer() {
    let pki = Pki::new();
    let (a, mut b) = dial(pki.node(1), pki.node(2), &[(3, NOWHERE)]).await;
    crate::both_count(&b, &a, "not-a-member").await;
    b.follows(&[(3, NOWHERE)], &[], true);
    a.reaches(&mut b, 1, 2).await;
    let refused = b.refused("not-a-member");
    b.follows(&[(3, NOWHERE)], &[], false);
    a.lost(2).await;
    until("a refusal", || b.refused("not-a-member") > refused).await;
}

/// W-12: this node may have missed that it was added again. Until it hears a member lead, it can't know.
#[tokio::test]
async fn a_removed_node_is_heard_and_answered_while_strangers_are_and_told_when_they_are_not() {
    let pki = Pki::new();
    let (mut a, mut b) = stranger_and_host(&pki).await;
    b.follows(&[(3, NOWHERE)], &[1], true);
    a.reaches(&mut b, 1, 2).await;
    b.net.send(ask(2, 1, 5));
    assert_eq!(a.hears().await, ask(2, 1, 5));
    assert_eq!(a.refused_by_peer("removed"), 0);
    b.follows(&[(3, NOWHERE)], &[1], false);
    until("its count of both connections", || a.refused_by_peer("removed") == 2).await;
    until("a refusal", || b.refused("removed") > 0).await;
    assert_eq!(b.refused("not-a-member"), 0);
    // What it said while it counted as removed would come first.
    while b.inbox.try_recv().is_some() {}
    a.net.send(ask(1, 2, 7));
    b.follows(&[(3, NOWHERE)], &[1], true);
    a.reaches(&mut b, 1, 2).await;
}

/// W-12: a turn may end between the entry that removes the leader and the one that brings it back.
#[tokio::test]
async fn a_member_that_leads_goes_on_as_a_stranger_when_its_removal_is_met_in_the_log() {
    let pki = Pki::new();
    let mut b = Node::start(2, pki.node(2), &[]).await;
    let mut a = announcing(1, &pki, &[(2, &b.address().to_string())]).await;
    let address = a.address().to_string();
    b.knows(&[(1, &address)]);
    a.reaches(&mut b, 1, 2).await;
    b.reaches(&mut a, 2, 1).await;
    b.follows(&[(3, NOWHERE)], &[1], true);
    while b.inbox.try_recv().is_some() {}
    a.reaches(&mut b, 1, 2).await;
    b.reaches(&mut a, 2, 1).await;
    b.follows(&[(1, &address)], &[], false);
    a.reaches(&mut b, 1, 2).await;
    b.reaches(&mut a, 2, 1).await;
    assert_eq!(a.refused_by_peer("removed") + b.refused("removed"), 0);
}

/// W-12: a second process with the own certificate is a twin.
#[tokio::test]
async fn the_own_name_is_no_strangers() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[]).await;
    b.follows(&[], &[], true);
    let error = crate::refusal_of(b.address(), ALPN, Some(named(&pki, 2))).await;
    assert!(error.contains("not a member"), "{error}");
}

/// W-12.
#[tokio::test]
async fn only_a_few_strangers_are_let_in_at_once() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[]).await;
    b.follows(&[], &[], true);
    // Each from an address of its own, as machines are, or they would wait for each other.
    let enter = async |id: u8| {
        let config = hostile_config(ALPN, Some(named(&pki, id.into())));
        within("a connection", dial_from([127, 0, 1, id].into(), b.address(), config)).await.unwrap()
    };
    let mut open = Vec::new();
    for id in 10..26 {
        open.push(enter(id).await);
    }
    let end = within("a close", enter(26).await.closed()).await.to_string();
    assert!(end.contains("not a member"), "{end}");
    // One that is here may come again: it takes its own place.
    open.push(enter(10).await);
    until("the end of its older one", || open[0].close_reason().is_some()).await;
    assert_eq!(open.iter().filter(|connection| connection.close_reason().is_none()).count(), 16);
    assert_eq!(b.refused("not-a-member"), 1);
}

/// Whether a first datagram of a handshake is answered with a Retry, as whoever is not known is.
async fn must_show_itself(to: SocketAddr) -> bool {
    let (first, _open) = half_open(1, ALPN).await;
    let source = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    source.send_to(&first[0], to).await.unwrap();
    let mut answer = [0; 2048];
    within("an answer", source.recv(&mut answer)).await.unwrap();
    answer[0] & 0xf0 == 0xf0
}

/// What is kept free for members is not spent on strangers, even where one was let in before.
#[tokio::test]
async fn a_stranger_is_not_known_where_it_came_from() {
    let pki = Pki::new();
    let (a, mut b) = dial(pki.node(1), pki.node(2), &[]).await;
    b.follows(&[], &[], true);
    a.reaches(&mut b, 1, 2).await;
    assert!(must_show_itself(b.address()).await);
    // A member is, once it comes again.
    drop(a);
    b.knows(&[(1, "192.0.2.7:9")]);
    let a = Node::start(1, pki.node(1), &[(2, &b.address().to_string())]).await;
    a.reaches(&mut b, 1, 2).await;
    assert!(!must_show_itself(b.address()).await);
}

// ---- the way back to a stranger ---------------------------------------------------------------

/// W-13: the very first answer arrives; a candidate does not ask twice in one election.
#[tokio::test]
async fn a_stranger_is_answered_where_it_says_that_it_listens() {
    let pki = Pki::new();
    let (mut a, mut b) = stranger_and_host(&pki).await;
    b.follows(&[], &[], true);
    a.reaches(&mut b, 1, 2).await;
    b.net.send(ask(2, 1, 5));
    assert_eq!(a.hears().await, ask(2, 1, 5));
    b.net.send(ask(2, 1, 6));
    assert_eq!(a.hears().await, ask(2, 1, 6));
    assert_eq!(counted(&b.metrics, "message", "no-connection"), 0);
    assert!(b.net.connected().is_empty(), "it counts as a member");

    // Once it is a member the connection goes on.
    b.knows(&[(1, &a.address().to_string())]);
    assert_eq!(b.net.connected(), [NodeId(1)]);
    b.net.send(ask(2, 1, 7));
    assert_eq!(a.hears().await, ask(2, 1, 7));
    assert_eq!(a.refused_by_peer("superseded"), 0);
}

/// W-13.
#[tokio::test]
async fn the_way_back_ends_when_strangers_are_not_heard_any_more() {
    let pki = Pki::new();
    let (mut a, mut b) = stranger_and_host(&pki).await;
    b.follows(&[(3, NOWHERE)], &[], true);
    a.reaches(&mut b, 1, 2).await;
    b.net.send(ask(2, 1, 5));
    assert_eq!(a.hears().await, ask(2, 1, 5));
    b.follows(&[(3, NOWHERE)], &[], false);
    b.net.send(ask(2, 1, 6));
    assert_eq!(counted(&b.metrics, "message", "not-a-member"), 1);
    // And it does not come back by itself when they are heard again; the stranger does.
    b.follows(&[(3, NOWHERE)], &[], true);
    b.net.send(ask(2, 1, 7));
    assert_eq!(counted(&b.metrics, "message", "not-a-member"), 2);
    a.reaches(&mut b, 1, 2).await;
    b.net.send(ask(2, 1, 8));
    assert_eq!(a.hears().await, ask(2, 1, 8));
}

/// W-13: what it said as a stranger is remembered, or a wrong address in the roster would end the connection.
#[tokio::test]
async fn a_stranger_that_becomes_a_member_is_looked_for_where_it_said() {
    let pki = Pki::new();
    let (mut a, mut b) = stranger_and_host(&pki).await;
    b.follows(&[], &[], true);
    a.reaches(&mut b, 1, 2).await;
    b.net.send(ask(2, 1, 5));
    assert_eq!(a.hears().await, ask(2, 1, 5));
    b.follows(&[(1, NOWHERE)], &[], true);
    assert!(b.net.connected().is_empty(), "the roster comes first");
    b.connected_to(1).await;
    b.reaches(&mut a, 2, 1).await;
}

/// W-13: all that a node knows may be the addresses from before the others have moved.
#[tokio::test]
async fn a_member_is_found_where_it_says_when_the_roster_is_wrong() {
    let pki = Pki::new();
    let mut b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    let mut a = announcing(1, &pki, &[(2, &b.address().to_string())]).await;
    a.reaches(&mut b, 1, 2).await;
    b.connected_to(1).await;
    b.reaches(&mut a, 2, 1).await;
    // It moves once more, before anybody else knows.
    within("the end", a.net.close()).await;
    b.lost(1).await;
    a = announcing(1, &pki, &[(2, &b.address().to_string())]).await;
    b.connected_to(1).await;
    a.connected_to(2).await;
    b.reaches(&mut a, 2, 1).await;
}

/// W-13: what a member says takes nothing away from what the roster knows.
#[tokio::test]
async fn a_member_that_is_wrong_about_itself_is_found_where_the_roster_says() {
    let pki = Pki::new();
    let a = Node::start(1, pki.node(1), &[]).await;
    let b = Node::start(2, pki.node(2), &[(1, NOWHERE)]).await;
    let (_lie, _stream) = introduces_itself(&pki, b.address(), &saying("127.0.0.1:10")).await;
    a.knows(&[(2, &b.address().to_string())]);
    b.knows(&[(1, &a.address().to_string())]);
    b.connected_to(1).await;
    within("the end", a.net.close()).await;
    b.lost(1).await;
    let address = a.address();
    drop(a);
    let _again = Node::listen(1, pki.node(1), &[(2, &b.address().to_string())], address, INBOX).await;
    b.connected_to(1).await;
}

/// W-5, W-13: the first members are in no entry of the log, so a newcomer may know no more than their names.
#[tokio::test]
async fn a_member_whose_address_nobody_knows_is_let_in_and_dialled_where_it_says() {
    let pki = Pki::new();
    let (mut a, mut b) = stranger_and_host(&pki).await;
    b.knows_by_name(&[1, 3]);
    a.reaches(&mut b, 1, 2).await;
    b.connected_to(1).await;
    b.reaches(&mut a, 2, 1).await;
    b.knows_by_name(&[1]);
    assert_eq!(b.net.connected(), [NodeId(1)], "another change is none of its");
    b.knows_by_name(&[3]);
    a.lost(2).await;
    assert!(b.net.connected().is_empty());
}

/// W-11, W-13: what it said as a member was not listened to, so it must say it again.
#[tokio::test]
async fn a_member_that_becomes_a_stranger_introduces_itself_anew() {
    let pki = Pki::new();
    let (mut a, mut b) = stranger_and_host(&pki).await;
    b.follows(&[(1, NOWHERE)], &[], true);
    a.reaches(&mut b, 1, 2).await;
    while b.inbox.try_recv().is_some() {}
    b.follows(&[], &[], true);
    a.reaches(&mut b, 1, 2).await;
    b.net.send(ask(2, 1, 5));
    assert_eq!(a.hears().await, ask(2, 1, 5));
}

/// W-13.
#[tokio::test]
async fn a_node_that_does_not_say_where_it_listens_is_heard_and_not_answered() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[]).await;
    b.follows(&[], &[], true);
    let a = Node::start(1, pki.node(1), &[(2, &b.address().to_string())]).await;
    let mut b = b;
    a.reaches(&mut b, 1, 2).await;
    b.net.send(ask(2, 1, 5));
    assert_eq!(counted(&b.metrics, "message", "not-a-member"), 1);
}

/// A certificate and key of a node.
fn named(pki: &Pki, id: u64) -> (PathBuf, PathBuf) {
    let uri = Some(&*Box::leak(format!("spiffe://orders/node/{id}").into_boxed_str()));
    pki.forge(&Leaf { uri, ..Leaf::default() })
}

/// A connection of node 1 to `to` whose control stream begins with `bytes`.
async fn introduces_itself(
    pki: &Pki,
    to: SocketAddr,
    bytes: &[u8],
) -> (quinn::Connection, quinn::SendStream) {
    let connection = within("a connection", hostile(to, ALPN, Some(named(pki, 1)))).await.unwrap();
    let mut stream = within("a stream", connection.open_uni()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    (connection, stream)
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[4], &length[..], payload].concat()
}

/// The version, and a text of fewer than 128 bytes.
fn saying(address: &str) -> Vec<u8> {
    framed(&[&[1, u8::try_from(address.len()).unwrap()], address.as_bytes()].concat())
}

/// W-9, W-13.
#[tokio::test]
async fn closes_on_an_introduction_that_is_none() {
    let pki = Pki::new();
    let b = Node::start(2, pki.node(2), &[]).await;
    b.follows(&[], &[], true);
    let version_9 = framed(&[9, 1, b'a']);
    let (connection, _stream) = introduces_itself(&pki, b.address(), &version_9).await;
    let end = within("a close", connection.closed()).await.to_string();
    assert!(end.contains("version 9"), "{end}");

    let longer = u32::try_from(codec::INTRODUCTION_MAX_BYTES + 1).unwrap();
    let endless = [&[4], &longer.to_be_bytes()[..]].concat();
    let no_text = framed(&[1, 2, 0xff, 0xff]);
    let more = [&saying("a:1")[..4], &[6, 1, 3, b'a', b':', b'1', 0]].concat();
    let names = ["", "a", "a:0", "user@a:1", "a b:1", "a:1/x", "\0:1"].map(saying);
    for bytes in [endless, no_text, more, framed(&[])].into_iter().chain(names) {
        let before = b.refused("malformed");
        let (connection, _stream) = introduces_itself(&pki, b.address(), &bytes).await;
        within("a close", connection.closed()).await;
        assert_eq!(b.refused("malformed"), before + 1, "{bytes:?}");
    }
}

/// W-13: wherever a stranger says that it listens, nobody else gets what is meant for it, and the members
/// do not notice.
#[tokio::test]
async fn a_lie_about_the_own_address_costs_a_failed_dial() {
    let pki = Pki::new();
    let mut b = announcing(2, &pki, &[]).await;
    let (own, other) = (b.address().to_string(), free_address().to_string());
    b.follows(&[(3, &other)], &[], true);
    let mut c = Node::listen(3, pki.node(3), &[(2, &own)], other.parse().unwrap(), INBOX).await;
    c.connected_to(2).await;
    b.connected_to(3).await;
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = silent.local_addr().unwrap().to_string();
    for address in [&other, &own, &nobody, NOWHERE, "255.255.255.255:9", "no.such.host.invalid:1", "[::1]:9"]
    {
        let (connection, mut stream) = introduces_itself(&pki, b.address(), &saying(address)).await;
        stream.write_all(&codec::encode(&ask(1, 2, 4)).unwrap()).await.unwrap();
        assert_eq!(b.hears().await, ask(1, 2, 4), "{address}");
        let before = b.refused("wrong-node");
        b.net.send(ask(2, 1, 5));
        if address == other || address == own {
            until("the other name", || b.refused("wrong-node") > before).await;
        }
        b.net.send(ask(2, 3, 6));
        assert_eq!(c.hears().await, ask(2, 3, 6), "{address}");
        c.net.send(ask(3, 2, 7));
        assert_eq!(b.hears().await, ask(3, 2, 7), "{address}");
        assert_eq!(connection.close_reason(), None, "{address}");
    }
    assert!(c.inbox.try_recv().is_none() && b.inbox.try_recv().is_none());
}

/// W-13: what this node would not believe it does not say.
#[test]
fn nothing_is_announced_that_would_be_refused() {
    let encode = |address: &str| codec::encode_introduction(&Introduction { address: address.to_owned() });
    let longest = format!("{}:7101", "x".repeat(ADDRESS_BYTES - 5));
    for address in ["", "0.0.0.0", "a:0", &format!("x{longest}")] {
        assert!(encode(address).is_err(), "{address}");
    }
    let frame = encode(&longest).unwrap();
    assert_eq!(frame.len() - 4, codec::INTRODUCTION_MAX_BYTES);
    assert_eq!(codec::decode_introduction(&frame[4..]).unwrap().address, longest);
}
