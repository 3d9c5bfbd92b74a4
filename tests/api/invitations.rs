//! Invitations, and machines that join with them.

use bytes::Bytes;
use http::{Method, Request, Response};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384, SanType};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tempfile::TempDir;
use termgate::api::answers::join::{Invited, JoinAnswer, JoinMember, JoinRequest};
use termgate::certs;
use termgate::certs::authority::{AuthorityFiles, find, is_for, is_sealed, request as certificate_request};
use termgate::certs::invitation::{Token, disarm};
use termgate::ids::{LogIndex, NodeId};
use termgate::raft::entry::Membership;
use termgate::registry::command::{Answer, Invitation, Op, Redemption};

use crate::fake::{Changes, Cluster, Proposals, TOKEN};
use crate::{assert_described, assert_problem, field, parsed, request};

/// The signing node.
const SIGNER: u64 = 2;

/// A cluster that can sign, and a machine that wants to join it.
struct Desk {
    dir: TempDir,
    cluster: Cluster,
    /// The machine's key, PEM.
    key: String,
    csr: String,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = certs::init("test", dir.path()).unwrap();
        let cluster = Cluster::signing(AuthorityFiles { ca: files.certificate, key: files.key });
        let (key, csr) = certificate_request().unwrap();
        Self { dir, cluster, key, csr }
    }

    async fn invite_at(&self, node: u64, body: &str) -> Response<Bytes> {
        let bearer = format!("Bearer {TOKEN}");
        let fields = [("authorization", bearer.as_str())];
        let path = "/cluster/invitations";
        let answer = self.cluster.send(node, request(Method::POST, path, &fields, body)).await;
        assert_described(&Method::POST, path, &answer);
        answer
    }

    async fn invite(&self, id: u64) -> Token {
        let answer = self.invite_at(SIGNER, &json!({ "id": id }).to_string()).await;
        assert_eq!(answer.status(), 200, "{:?}", answer.body());
        Token::parse(&parsed::<Invited>(&answer).token).unwrap()
    }

    /// One for node 4 whose end is long past, and the entry that made it.
    fn expired_invitation(&self) -> (Token, LogIndex) {
        let token = Token::draw("test", NodeId(4), [0; 32]).unwrap();
        let invitation =
            Invitation { node: NodeId(4), verifier: token.verifier(), made_at: 1, expires_at: 86_400 };
        let Answer::Done { version } = self.cluster.apply(Op::Invite(invitation)) else { panic!("not made") };
        (token, version)
    }

    fn body(&self, id: u64) -> String {
        let at = |port: u16| format!("10.0.0.{id}:{port}");
        let member =
            JoinMember { id: NodeId(id), peer: at(1), hop: at(2), proxy: at(2), api: at(3), zone: None };
        let join = JoinRequest { member, incarnation: "77".into(), csr: self.csr.clone() };
        serde_json::to_string(&join).unwrap()
    }

    /// A join as the machine sends it, without any bearer token.
    async fn join(&self, body: &str, signature: &str) -> Response<Bytes> {
        let fields = [("termgate-signature", signature)];
        let answer = self.cluster.send(SIGNER, request(Method::POST, "/cluster/join", &fields, body)).await;
        assert_described(&Method::POST, "/cluster/join", &answer);
        answer
    }

    async fn remove(&self, id: u64) {
        let bearer = format!("Bearer {TOKEN}");
        let path = format!("/cluster/members/{id}");
        let answer = self.cluster.call(1, Method::DELETE, &path, &[("authorization", &bearer)]).await;
        assert_eq!(answer.status(), 200);
    }

    fn members(&self) -> Vec<u64> {
        self.cluster.membership().members().iter().map(|id| id.0).collect()
    }
}

#[track_caller]
fn refused(answer: &Response<Bytes>, why: &str) {
    assert_problem(answer, 403, "invitation-refused", Some("not-applied"));
    let detail = parsed::<Value>(answer)["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(why), "{detail}");
}

#[tokio::test]
async fn a_machine_joins_as_a_learner_with_a_certificate_that_the_authority_stands_behind() {
    let desk = Desk::new();
    let token = desk.invite(4).await;
    assert_eq!((token.node, token.cluster.as_str()), (NodeId(4), "test"));
    let body = desk.body(4);
    let answer = desk.join(&body, &token.sign(body.as_bytes())).await;
    assert_eq!(answer.status(), 200, "{:?}", answer.body());
    let seal = disarm(field(&answer, "termgate-signature").unwrap()).unwrap();
    let JoinAnswer { cluster, certificate, ca, members, settings, .. } = parsed(&answer);
    let authority = find(&ca, &token.authority).expect("the authority of the token");
    assert!(is_sealed(&authority, answer.body(), &seal));
    assert!(is_for(&certificate, "test", NodeId(4), &desk.key));
    assert_eq!((cluster.as_str(), settings.as_str()), ("test", "[raft]\nlease_reads = true\n"));
    let known: Vec<_> = members.iter().map(|member| (member.id.0, member.peer.as_str())).collect();
    assert_eq!(known[..2], [(1, "10.0.0.1:7100"), (2, "10.0.0.2:7100")]);
    assert_eq!(known[3], (4, "10.0.0.4:1"));
    let membership = desk.cluster.membership();
    assert_eq!((membership.learners.len(), membership.incarnations), (1, [(NodeId(4), 77)].into()));
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_comes_again_and_any_other_comes_too_late() {
    let desk = Desk::new();
    let token = desk.invite(4).await;
    let body = desk.body(4);
    let signature = token.sign(body.as_bytes());
    desk.cluster.on_change(Changes::MakeUnknown);
    assert_problem(&desk.join(&body, &signature).await, 500, "outcome-unknown", Some("unknown"));
    desk.cluster.on_change(Changes::Make);
    for _ in 0..2 {
        let again: JoinAnswer = parsed(&desk.join(&body, &signature).await);
        assert!(is_for(&again.certificate, "test", NodeId(4), &desk.key));
    }
    let thief = body.replace("77", "78");
    refused(&desk.join(&thief, &token.sign(thief.as_bytes())).await, "used before, by another request");
    assert_eq!(desk.members(), [1, 2, 3, 4]);
    assert_eq!(desk.cluster.changed().len(), 1);
}

#[tokio::test]
async fn only_the_tokens_holder_joins_and_only_as_whom_it_was_invited() {
    let desk = Desk::new();
    let token = desk.invite(4).await;
    let body = desk.body(4);
    refused(&desk.join(&body, "").await, "fits the token");
    refused(&desk.join(&body.replace("77", "78"), &token.sign(body.as_bytes())).await, "fits the token");
    let stranger = Token::draw("test", NodeId(4), token.authority).unwrap();
    refused(&desk.join(&body, &stranger.sign(body.as_bytes())).await, "fits the token");
    let other = desk.body(5);
    refused(&desk.join(&other, &token.sign(other.as_bytes())).await, "fits the token");
    let newer = desk.invite(4).await;
    refused(&desk.join(&body, &token.sign(body.as_bytes())).await, "another one was made since");
    assert_eq!(desk.join(&body, &newer.sign(body.as_bytes())).await.status(), 200);
}

#[tokio::test]
async fn a_removed_member_does_not_come_back_with_its_old_request() {
    let desk = Desk::new();
    let token = desk.invite(4).await;
    let body = desk.body(4);
    assert_eq!(desk.join(&body, &token.sign(body.as_bytes())).await.status(), 200);
    desk.remove(4).await;
    refused(&desk.join(&body, &token.sign(body.as_bytes())).await, "the member was removed");
    assert_eq!(desk.members(), [1, 2, 3]);
}

#[tokio::test]
async fn an_expired_invitation_is_refused_with_its_end() {
    let desk = Desk::new();
    let (token, _) = desk.expired_invitation();
    let body = desk.body(4);
    refused(&desk.join(&body, &token.sign(body.as_bytes())).await, "expired at 1970-01-02T00:00:00Z");
    assert_eq!(desk.cluster.changed(), []);
}

/// A machine whose answer was lost can't know that it has become a member.
#[tokio::test]
async fn the_request_that_used_an_invitation_is_answered_also_after_its_end() {
    let desk = Desk::new();
    let (token, version) = desk.expired_invitation();
    let body = desk.body(4);
    let by = digest(&SHA256, body.as_bytes()).as_ref().try_into().unwrap();
    let member = serde_json::from_str::<JoinRequest>(&body).unwrap().member.into();
    let used = Op::Redeem(Box::new(Redemption { invitation: version, by, member }));
    assert!(matches!(desk.cluster.apply(used), Answer::Done { .. }));
    assert_eq!(desk.join(&body, &token.sign(body.as_bytes())).await.status(), 200);
    let other = body.replace("77", "78");
    refused(&desk.join(&other, &token.sign(other.as_bytes())).await, "expired at 1970-01-02T00:00:00Z");
}

#[tokio::test]
async fn a_certificate_request_without_proof_of_its_key_is_refused_before_the_invitation_is_used() {
    let desk = Desk::new();
    let token = desk.invite(4).await;
    let body = desk.body(4).replace("CERTIFICATE REQUEST-----\\n", "CERTIFICATE REQUEST-----\\nAAAA");
    let answer = desk.join(&body, &token.sign(body.as_bytes())).await;
    assert_problem(&answer, 400, "bad-request", Some("not-applied"));
    let body = desk.body(4);
    assert_eq!(desk.join(&body, &token.sign(body.as_bytes())).await.status(), 200);
}

#[tokio::test]
async fn a_node_without_the_authoritys_key_says_which_setting_it_lacks() {
    let desk = Desk::new();
    let answer = desk.invite_at(1, r#"{"id": 4}"#).await;
    assert_problem(&answer, 409, "membership-refused", Some("not-applied"));
    assert!(parsed::<Value>(&answer)["detail"].as_str().unwrap().contains("[tls] ca_key"));
    std::fs::remove_file(desk.dir.path().join("ca.key")).unwrap();
    let answer = desk.invite_at(SIGNER, r#"{"id": 4}"#).await;
    assert_problem(&answer, 409, "membership-refused", Some("not-applied"));
    assert!(parsed::<Value>(&answer)["detail"].as_str().unwrap().contains("ca.key"));
}

/// G5: what the machine is told must be sealed, so an authority that can't do that refuses before anything is changed.
#[tokio::test]
async fn an_authority_that_can_not_seal_refuses_before_the_machine_is_a_member() {
    let desk = Desk::new();
    let token = desk.invite(4).await;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::URI("spiffe://test".try_into().unwrap()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(desk.dir.path().join("ca.pem"), certificate.pem()).unwrap();
    std::fs::write(desk.dir.path().join("ca.key"), key.serialize_pem()).unwrap();
    let body = desk.body(4);
    let answer = desk.join(&body, &token.sign(body.as_bytes())).await;
    assert_problem(&answer, 409, "membership-refused", Some("not-applied"));
    assert!(parsed::<Value>(&answer)["detail"].as_str().unwrap().contains("P-256"), "{:?}", answer.body());
    assert_eq!(desk.members(), [1, 2, 3]);
}

/// G5: on a cluster whose members were never changed, too, where the registry does not know them.
#[tokio::test]
async fn a_refused_join_moves_no_member() {
    let desk = Desk::new();
    let token = desk.invite(4).await;
    desk.cluster.found(Membership::of_voters((1..=4).map(NodeId)));
    let body = desk.body(4);
    let answer = desk.join(&body, &token.sign(body.as_bytes())).await;
    assert_problem(&answer, 409, "membership-refused", Some("not-applied"));
    assert_eq!(desk.cluster.place_of(4), None, "it stays where it was");
}

#[tokio::test]
async fn invitations_are_for_operators_and_for_ids_that_are_free() {
    let desk = Desk::new();
    for body in ["", r#"{"id": 0}"#, r#"{"id": 4, "ttl_s": 59}"#, r#"{"id": 4, "ttl_s": 604801}"#] {
        assert_problem(&desk.invite_at(SIGNER, body).await, 400, "bad-request", Some("not-applied"));
    }
    let member = desk.invite_at(SIGNER, r#"{"id": 3}"#).await;
    assert_problem(&member, 409, "membership-refused", Some("not-applied"));
    let anonymous = request(Method::POST, "/cluster/invitations", &[], r#"{"id": 4}"#);
    assert_problem(&desk.cluster.send(SIGNER, anonymous).await, 401, "unauthorized", Some("not-applied"));
    desk.cluster.on_propose(Proposals::Answer(Answer::LimitExceeded("full")));
    let full = desk.invite_at(SIGNER, r#"{"id": 4}"#).await;
    assert_problem(&full, 507, "limit-exceeded", Some("not-applied"));
}

#[tokio::test]
async fn a_web_page_can_not_let_a_machine_join() {
    let desk = Desk::new();
    let cluster = Cluster::led_by(1);
    let from =
        Request::post("/cluster/join").header("host", "127.0.0.1:1").header("origin", "https://evil.example");
    let answer = cluster.send(1, from.body(Bytes::from(desk.body(4))).unwrap()).await;
    assert_problem(&answer, 403, "forbidden", Some("not-applied"));
}
