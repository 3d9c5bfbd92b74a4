--------------------------------- MODULE Trace ---------------------------------
(* Whether Termgate can follow what a simulated cluster did. Events come from the  *)
(* simulator (tests/sim/tla.rs): one for each turn of a node, each flush, crash    *)
(* and start, and each step of the resource, with what was seen of it afterwards.  *)
(*                                                                                 *)
(* An event is followed in three moves: the clock of its node shows its time; what *)
(* it names happens; and the node may do what nodes do by themselves, until it is  *)
(* as it was seen. What it was seen to send must be what it may send. A vote or a  *)
(* request for one may be ignored, as if it had been lost.                         *)
(*                                                                                 *)
(* NotFollowed is violated by a trace that was followed to its end.                *)
EXTENDS Termgate, TLC, TraceData

VARIABLES at, phase

all == <<vars, at, phase>>
E == Events[at]
Is(what) == E.do = what
N == E.n

TraceInit == Init /\ at = 1 /\ phase = "clock"

Clock ==
  /\ phase = "clock" /\ at <= Len(Events)
  /\ clock' = IF "t" \in DOMAIN E THEN [clock EXCEPT ![N] = E.t] ELSE clock
  /\ phase' = "act"
  /\ UNCHANGED <<disk, queue, held, node, msgs, rate, resource, history, at>>

Takes(m) == m \in msgs /\ Receive(N, m)

Happens ==
  \/ Is("step") /\ \E m \in E.got : Takes(m)
  \/ Is("start") /\ Restart(N)
  \/ Is("raise") /\ Raise(N)
  \/ Is("stamp") /\ Stamp(N, E.id)
  \/ Is("fence") /\ \E m \in msgs : m.type = "raise" /\ m.term = E.term /\ OnRaise(m)
  \/ Is("stored") /\ StoreFence(E.term)
  \/ Is("raised") /\ AnswerRaise(E.term)
  \/ Is("write") /\ \E m \in msgs : m.type = "write" /\ m.id = E.id /\ OnWrite(m)
  \/ Is("written") /\ \E w \in resource.running : w.id = E.id /\ Written(w)
  \/ Is("resource-crash") /\ ResourceCrash

\* An append and an acknowledgement are taken by whom they concern: with every choice the states to follow would double.
MustTake(m) ==
  /\ m \in msgs
  /\ \/ m.type = "append" /\ m.term >= Term(N) /\ ~(Leads(N) /\ m.term = Term(N))
     \/ m.type = "accepted" /\ m.term = Term(N) /\ Leads(N)

\* What may also be nothing at all: another message, a raise that is repeated or comes late.
MayBeNothing ==
  \/ Is("step") /\ ~\E m \in E.got : MustTake(m)
  \/ Is("flush") \/ Is("crash")
  \/ Is("raise") /\ [type |-> "raise", from |-> N, term |-> E.term] \in msgs
  \/ Is("fence") /\ E.term = resource.fence
  \/ Is("stored") /\ E.term <= resource.durable

Act ==
  /\ phase = "act"
  /\ \/ Happens
     \/ MayBeNothing /\ UNCHANGED vars
     \* An answer to a raise may have come at any time before.
     \/ Is("stamp") /\ node[N].gate # Term(N) /\ OpenGate(N)
  /\ phase' = IF Is("stamp") /\ msgs' = msgs /\ node' # node THEN "act" ELSE "settle"
  /\ UNCHANGED at

\* What a node does by itself, on its way to what was seen.
ByItself ==
  \/ Term(N) < E.term /\ (Campaign(N) \/ LearnTerm(N, E.term))
  \/ node[N].role # E.role /\ (StepDown(N) \/ TakeOffice(N))
  \/ Len(Log(N)) < E.last[2] /\ Propose(N)
  \/ node[N].commit < E.commit /\ Leads(N) /\ Commit(N, E.commit)

Settle ==
  /\ phase = "settle" /\ UNCHANGED <<at, phase>>
  /\ \/ Is("step") /\ ByItself
     \/ (Is("flush") \/ Is("crash")) /\ Flush(N)

\* A leader's appends need nothing but its log.
MaySend(m) ==
  LET log == Log(N) IN
  /\ Leads(N) /\ m.from = N /\ m.term = Term(N) /\ m.at = clock[N] /\ m.commit <= node[N].commit
  /\ m.prev + Len(m.entries) <= Len(log) /\ m.prevTerm = TermAt(log, m.prev)
  /\ m.entries = SubSeq(log, m.prev + 1, m.prev + Len(m.entries))

NodeAsSeen ==
  /\ Mem(N).term = E.term /\ Mem(N).vote = E.vote /\ Last(Log(N)) = E.last
  /\ node[N].role = E.role /\ node[N].commit = E.commit
  /\ E.lease > 0 => (HasLease(N) /\ E.lease <= LeaseEnd(N) + Slack)
  /\ \A m \in E.sent : IF m.type = "append" THEN MaySend(m) ELSE m \in msgs

DiskAsSeen == disk[N].term = E.term /\ disk[N].vote = E.vote /\ Last(disk[N].log) = E.last

AsSeen ==
  CASE Is("step") -> NodeAsSeen
    [] Is("flush") \/ Is("crash") -> DiskAsSeen
    [] OTHER -> TRUE

Seen ==
  /\ phase = "settle" /\ AsSeen
  /\ phase' = "clock" /\ at' = at + 1
  /\ msgs' = IF Is("step") THEN msgs \cup E.sent ELSE msgs
  /\ PrintT(<<"followed", at>>)
  /\ UNCHANGED <<disk, queue, held, node, clock, rate, resource, history>>

TraceNext == Clock \/ Act \/ Settle \/ Seen

NotFollowed == at <= Len(Events)
================================================================================
