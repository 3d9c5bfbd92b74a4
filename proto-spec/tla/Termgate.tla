------------------------------- MODULE Termgate -------------------------------
(* What termgate's nodes promise each other, their disks and a fenced resource.  *)
(*                                                                               *)
(* In it: votes, replication and commit, with every write queued first and       *)
(* durable later, so that a crash takes away whatever the disk still owed; the   *)
(* leader's lease on clocks that run at different rates; a resource that refuses *)
(* every term below its fence. Rules are cited as raft.md and the verifier do.   *)
(*                                                                               *)
(* Not in it: pre-votes (they change nothing), snapshots, membership change,     *)
(* leadership transfer, reads, sessions (an answer of an earlier session says    *)
(* less than one of the present), and liveness.                                  *)
(*                                                                               *)
(* A message stays in msgs for ever. That it is lost, late, doubled or overtaken *)
(* is all in the freedom to receive it never, later or again. What a leader says *)
(* is heard by whoever cares to, which is more than its receiver.                *)
EXTENDS Integers, Sequences, FiniteSets

CONSTANTS
  Server,    \* the voters
  Nil,       \* nobody
  Promise,   \* how long a heard leader binds its voter, on the voter's clock
  Drift,     \* by how much a clock's rate may be off, in parts per thousand
  Slack,     \* what rounding may take from a comparison of times; 0 but for traces
  Rates,     \* the rates that clocks have: local time in one tick
  Lazy,      \* FALSE: every write is durable at once, for what does not rest on that
  Bug        \* "none", or which rule is broken

VARIABLES
  disk,      \* what a crash leaves of each node: term, vote, log
  queue,     \* the writes that its disk owes, in order, each as the state it leaves
  held,      \* messages that wait for the disk, each with what it rests on
  node,      \* what a crash takes away of each node
  msgs,      \* what has left
  clock,     \* what each node's clock shows
  rate,      \* and how fast it runs
  resource,  \* the fence, what of it is durable, the writes under way, the last one
  elected,   \* every <<term, node>> that ever led
  committed  \* the longest log that was ever committed, and the term that did

vars == <<disk, queue, held, node, msgs, clock, rate, resource, elected, committed>>
history == <<elected, committed>>
world == <<clock, rate, resource>>

-------------------------------------------------------------------------------
Quorums == {q \in SUBSET Server : 2 * Cardinality(q) > Cardinality(Server)}
Max(a, b) == IF a > b THEN a ELSE b
Min(a, b) == IF a < b THEN a ELSE b

\* A log is the sequence of its entries' terms: term and place name an entry.
IsPrefix(a, b) == Len(a) <= Len(b) /\ SubSeq(b, 1, Len(a)) = a
TermAt(log, i) == IF i = 0 THEN 0 ELSE log[i]
Last(log) == <<TermAt(log, Len(log)), Len(log)>>
Nothing == <<0, 0>>
Holds(log, last) == last[2] <= Len(log) /\ TermAt(log, last[2]) = last[1]
UpToDate(a, b) == a[1] > b[1] \/ (a[1] = b[1] /\ a[2] >= b[2])

\* What a node has in memory is what its disk will hold.
Mem(s) == IF queue[s] = <<>> THEN disk[s] ELSE queue[s][Len(queue[s])]
Term(s) == Mem(s).term
Log(s) == Mem(s).log
Leads(s) == node[s].role = "leader"

\* R6, R7: of a time on another clock, what is certain on this one.
Shrunk(x) == IF Bug = "lease-ignores-drift" THEN x ELSE (x * (1000 - Drift)) \div 1000
Stretched(x) == (x * (1000 + Drift) + 999) \div 1000

\* Until when a quorum has promised. The node's own promise is kept by not voting.
PromiseEnd(s, t) ==
  LET from == IF t = s THEN clock[s] ELSE node[s].contact[t]
  IN IF from = -1 THEN -1 ELSE from + Shrunk(Shrunk(Promise))
LeaseEnd(s) ==
  LET first(q) == CHOOSE e \in {PromiseEnd(s, t) : t \in q} : \A t \in q : e <= PromiseEnd(s, t)
  IN CHOOSE e \in {first(q) : q \in Quorums} : \A q \in Quorums : e >= first(q)
HasLease(s) == Leads(s) /\ clock[s] < LeaseEnd(s) + Slack
MayVote(s) == clock[s] + Slack >= node[s].until

\* F1: the token that may be stamped.
HasToken(s) == HasLease(s) /\ TermAt(Log(s), node[s].commit) = Term(s)

-------------------------------------------------------------------------------
Fresh == [t \in Server |-> 0]
Never == [t \in Server |-> -1]
Follower == [role |-> "follower", granted |-> {}, match |-> Fresh, contact |-> Never, gate |-> 0,
             commit |-> 0, until |-> 0, to |-> Nil]

Init ==
  /\ disk = [s \in Server |-> [term |-> 0, vote |-> Nil, log |-> <<>>]]
  /\ queue = [s \in Server |-> <<>>]
  /\ held = [s \in Server |-> {}]
  /\ node = [s \in Server |-> Follower]
  /\ msgs = {}
  /\ clock = [s \in Server |-> 0]
  /\ rate \in [Server -> Rates]
  /\ resource = [fence |-> 0, durable |-> 0, running |-> {}, last |-> 0, stale |-> FALSE]
  /\ elected = {}
  /\ committed = [log |-> <<>>, term |-> 0]

\* Queues the write that leaves `new`. An answer waits until the disk holds what it rests on (V1, V6, C8).
Backed(h, d) == d.term = h.m.term /\ h.vote \in {Nil, d.vote} /\ Holds(d.log, h.last)
Write(s, new, answers) ==
  LET ready == {h \in answers : ~Lazy \/ Backed(h, disk[s]) \/ Bug = "no-wait-for-" \o h.m.type}
  IN /\ disk' = IF Lazy THEN disk ELSE [disk EXCEPT ![s] = new]
     /\ queue' = IF Lazy /\ new # Mem(s) THEN [queue EXCEPT ![s] = Append(@, new)] ELSE queue
     /\ msgs' = msgs \cup {h.m : h \in ready}
     /\ held' = [held EXCEPT ![s] = @ \cup (answers \ ready)]

\* The oldest owed write becomes durable, and what waited for it leaves (C2, C12).
Flush(s) ==
  LET d == Head(queue[s])
      ready == {h \in held[s] : Backed(h, d)}
  IN /\ queue[s] # <<>>
     /\ disk' = [disk EXCEPT ![s] = d]
     /\ queue' = [queue EXCEPT ![s] = Tail(@)]
     /\ msgs' = msgs \cup {h.m : h \in ready}
     /\ held' = [held EXCEPT ![s] = {h \in @ \ ready : h.m.term >= d.term}]
     /\ UNCHANGED <<node, world, history>>

\* A crash, and the start after it, which knows that an earlier life may have promised, and not to whom (V11, R7).
Restart(s) ==
  /\ queue' = [queue EXCEPT ![s] = <<>>]
  /\ held' = [held EXCEPT ![s] = {}]
  /\ node' = [node EXCEPT ![s] = [Follower EXCEPT !.until = IF Bug = "forgotten-promise" THEN 0 ELSE clock[s] + Stretched(Promise)]]
  /\ UNCHANGED <<disk, msgs, clock, rate, resource, history>>

\* Out of office, or out of a campaign: vote and log stay (V3, C11).
FallenBack(n) == [n EXCEPT !.role = "follower", !.granted = {}, !.match = Fresh, !.contact = Never, !.gate = 0]

\* Only a higher term clears the vote (V3).
InTerm(s, t) == IF t > Term(s) THEN [Mem(s) EXCEPT !.term = t, !.vote = Nil] ELSE Mem(s)

-------------------------------------------------------------------------------
(* Elections                                                                     *)

\* Not within the own promise (M20). The request waits for all that it claims (V6).
Campaign(s) ==
  LET new == [Mem(s) EXCEPT !.term = @ + 1, !.vote = s]
      ask == [type |-> "ask", from |-> s, term |-> new.term, last |-> Last(new.log)]
  IN /\ ~Leads(s) /\ MayVote(s)
     /\ Write(s, new, {[m |-> ask, vote |-> s, last |-> ask.last]})
     /\ node' = [node EXCEPT ![s] = [FallenBack(@) EXCEPT !.role = "candidate", !.granted = {s}]]
     /\ UNCHANGED <<world, history>>

\* V-5: the promise binds towards all but the one that it was given to. A refusal because of it does not
\* even raise the term, so it is no step.
OnAsk(s, m) ==
  LET term == InTerm(s, m.term)
      grants == /\ term.vote \in {Nil, m.from}
                /\ (UpToDate(m.last, Last(Log(s))) \/ Bug = "vote-without-log-check")
      new == IF grants THEN [term EXCEPT !.vote = m.from] ELSE term
      grant == [type |-> "grant", from |-> s, to |-> m.from, term |-> m.term]
  IN /\ m.type = "ask" /\ m.from # s /\ m.term >= Term(s)
     /\ (MayVote(s) \/ node[s].to = m.from) /\ ~HasLease(s)
     /\ Write(s, new, IF grants THEN {[m |-> grant, vote |-> m.from, last |-> Nothing]} ELSE {})
     /\ node' = IF m.term > Term(s) THEN [node EXCEPT ![s] = FallenBack(@)] ELSE node
     /\ UNCHANGED <<world, history>>

\* A vote counts only for the campaign that it names (V4), here its term.
OnGrant(s, m) ==
  /\ m.type = "grant" /\ m.to = s /\ m.term = Term(s) /\ node[s].role = "candidate"
  /\ node' = [node EXCEPT ![s].granted = @ \cup {m.from}]
  /\ UNCHANGED <<disk, queue, held, msgs, world, history>>

\* The own vote counts once it is durable (V1). A leader begins with a no-op.
TakeOffice(s) ==
  LET new == [Mem(s) EXCEPT !.log = Append(@, Term(s))]
  IN /\ node[s].role = "candidate" /\ node[s].granted \in Quorums
     /\ disk[s].term = Term(s) /\ disk[s].vote = s
     /\ Write(s, new, {})
     /\ node' = [node EXCEPT ![s] = [FallenBack(@) EXCEPT !.role = "leader"]]
     /\ elected' = elected \cup {<<Term(s), s>>}
     /\ UNCHANGED <<world, committed>>

\* No quorum answers (L10), the disk stalls (L9), or a campaign took too long. Nothing is cut (C11).
StepDown(s) ==
  /\ node[s].role # "follower"
  /\ node' = [node EXCEPT ![s] = FallenBack(@)]
  /\ UNCHANGED <<disk, queue, held, msgs, world, history>>

\* E5: any message of a higher term, such as a refusal; its sender has that term on its disk (E4).
LearnTerm(s, t) ==
  /\ t > Term(s) /\ \E other \in Server : disk[other].term >= t
  /\ Write(s, InTerm(s, t), {})
  /\ node' = [node EXCEPT ![s] = FallenBack(@)]
  /\ UNCHANGED <<world, history>>

-------------------------------------------------------------------------------
(* Replication                                                                   *)

\* A new entry of the leader's: with no command to it, as good as any other.
Propose(s) ==
  /\ Leads(s)
  /\ Write(s, [Mem(s) EXCEPT !.log = Append(@, Term(s))], {})
  /\ UNCHANGED <<node, world, history>>

\* Entries may leave before they are durable here; the term of a leader is durable already (E4).
SendAppend(s, prev, last) ==
  LET m == [type |-> "append", from |-> s, term |-> Term(s), prev |-> prev,
            prevTerm |-> TermAt(Log(s), prev), entries |-> SubSeq(Log(s), prev + 1, last),
            commit |-> node[s].commit, at |-> clock[s]]
  IN /\ Leads(s)
     /\ msgs' = msgs \cup {m}
     /\ UNCHANGED <<disk, queue, held, node, world, history>>

\* C3, C4: only a conflict cuts, and an answer claims what was sent and no more. It waits until that is
\* durable, and it is a promise (V-5), counted from here.
OnAppend(s, m) ==
  LET term == InTerm(s, m.term)
      last == m.prev + Len(m.entries)
      fits == m.prev <= Len(Log(s)) /\ TermAt(Log(s), m.prev) = m.prevTerm
      whole == SubSeq(Log(s), 1, m.prev) \o m.entries
      log == IF ~fits \/ (IsPrefix(whole, Log(s)) /\ Bug # "cut-without-conflict") THEN Log(s) ELSE whole
      answer == [type |-> "accepted", from |-> s, to |-> m.from, term |-> m.term, match |-> last, at |-> m.at]
      heard == [FallenBack(node[s]) EXCEPT !.until = Max(@, clock[s] + Promise), !.to = m.from]
      known == [heard EXCEPT !.commit = Max(@, Min(m.commit, last))]
  IN /\ m.type = "append" /\ m.from # s /\ m.term >= Term(s)
     /\ ~(Leads(s) /\ m.term = Term(s))
     /\ Write(s, [term EXCEPT !.log = log],
              IF fits THEN {[m |-> answer, vote |-> Nil, last |-> <<TermAt(log, last), last>>]} ELSE {})
     /\ node' = [node EXCEPT ![s] = IF fits THEN known ELSE heard]
     /\ UNCHANGED <<world, history>>

\* The match index never falls (C5), nor does the time of the last message that was answered (R11).
OnAccepted(s, m) ==
  /\ m.type = "accepted" /\ m.to = s /\ m.term = Term(s) /\ Leads(s)
  /\ LET heard == IF Bug = "lease-from-arrival" THEN clock[s] ELSE m.at  \* R6: from the send
     IN node' = [node EXCEPT ![s].match[m.from] = Max(@, m.match), ![s].contact[m.from] = Max(@, heard)]
  /\ UNCHANGED <<disk, queue, held, msgs, world, history>>

\* C1, C8: an entry of the own term, durable on a quorum, here by what is on this disk.
Commit(s, i) ==
  LET holds(t) == IF t = s THEN IsPrefix(SubSeq(Log(s), 1, i), disk[s].log)
                  ELSE node[s].match[t] >= i
  IN /\ Leads(s) /\ i > node[s].commit /\ i <= Len(Log(s))
     /\ \E q \in Quorums : \A t \in q : holds(t)
     /\ (Log(s)[i] = Term(s) \/ Bug = "commit-of-an-older-term")
     /\ node' = [node EXCEPT ![s].commit = i]
     /\ committed' = IF i > Len(committed.log) THEN [log |-> SubSeq(Log(s), 1, i), term |-> Term(s)] ELSE committed
     /\ UNCHANGED <<disk, queue, held, msgs, world, elected>>

-------------------------------------------------------------------------------
(* The fenced resource                                                           *)

Touches(r) == resource' = r /\ UNCHANGED <<disk, queue, held, clock, rate, history>>

\* A leader that may stamp (F1) asks for the fence to stand at its term.
Raise(s) ==
  /\ HasToken(s)
  /\ msgs' = msgs \cup {[type |-> "raise", from |-> s, term |-> Term(s)]}
  /\ Touches(resource) /\ UNCHANGED node

\* F-1, F-2: never down, and at once in force.
OnRaise(m) ==
  /\ m.type = "raise" /\ (m.term > resource.fence \/ Bug = "lowered-fence")
  /\ Touches([resource EXCEPT !.fence = m.term]) /\ UNCHANGED <<node, msgs>>

\* F-4.
StoreFence(t) ==
  /\ t <= resource.fence /\ (t > resource.durable \/ Bug = "lowered-fence")
  /\ Touches([resource EXCEPT !.durable = t]) /\ UNCHANGED <<node, msgs>>

\* F-3, F-4: complete when it is durable and nothing older can take effect any more.
Complete(t) ==
  /\ resource.fence = t
  /\ (resource.durable = t \/ Bug = "raise-before-it-is-stored")
  /\ (\A w \in resource.running : w.term >= t) \/ Bug = "raise-not-awaited"

AnswerRaise(t) ==
  /\ Complete(t)
  /\ msgs' = msgs \cup {[type |-> "raised", term |-> t]}
  /\ Touches(resource) /\ UNCHANGED node

\* Writes are let through only once the raise to this very term is done.
OpenGate(s) ==
  /\ HasToken(s) /\ [type |-> "raised", term |-> Term(s)] \in msgs
  /\ node' = [node EXCEPT ![s].gate = Term(s)]
  /\ Touches(resource) /\ UNCHANGED msgs

\* F1: the token is looked at when a write leaves. It may then be under way for long.
Stamp(s, id) ==
  /\ HasToken(s) /\ node[s].gate = Term(s)
  /\ msgs' = msgs \cup {[type |-> "write", from |-> s, term |-> Term(s), id |-> id]}
  /\ Touches(resource) /\ UNCHANGED node

\* F-5, F-6. The write takes its time.
OnWrite(m) ==
  /\ m.type = "write" /\ Complete(m.term)
  /\ Touches([resource EXCEPT !.running = @ \cup {m}]) /\ UNCHANGED <<node, msgs>>

Written(w) ==
  /\ w \in resource.running
  /\ Touches([resource EXCEPT !.running = @ \ {w}, !.last = w.term, !.stale = @ \/ w.term < resource.last])
  /\ UNCHANGED <<node, msgs>>

\* A crash ends what was running, and leaves what was durable (F-4).
ResourceCrash ==
  Touches([resource EXCEPT !.fence = resource.durable, !.running = {}]) /\ UNCHANGED <<node, msgs>>

-------------------------------------------------------------------------------
Tick ==
  /\ clock' = [s \in Server |-> clock[s] + rate[s]]
  /\ UNCHANGED <<disk, queue, held, node, msgs, rate, resource, history>>

Receive(s, m) == OnAsk(s, m) \/ OnGrant(s, m) \/ OnAppend(s, m) \/ OnAccepted(s, m)

\* Everything that may happen, without bounds; MC.tla sets some.
Next ==
  \/ \E s \in Server :
       \/ Flush(s) \/ Restart(s) \/ Campaign(s) \/ TakeOffice(s) \/ StepDown(s) \/ Propose(s)
       \/ \E t \in Server : LearnTerm(s, disk[t].term)
       \/ \E i, j \in 0..Len(Log(s)) : i <= j /\ SendAppend(s, i, j)
       \/ \E i \in 1..Len(Log(s)) : Commit(s, i)
       \/ \E m \in msgs : Receive(s, m)
       \/ Raise(s) \/ OpenGate(s) \/ \E id \in Nat : Stamp(s, id)
  \/ \E m \in msgs : OnRaise(m) \/ OnWrite(m)
  \/ StoreFence(resource.fence) \/ AnswerRaise(resource.fence) \/ ResourceCrash
  \/ \E w \in resource.running : Written(w)
  \/ Tick

Spec == Init /\ [][Next]_vars

-------------------------------------------------------------------------------
(* What must hold                                                                *)

\* I1, G1.
OneLeaderInATerm == \A a, b \in elected : a[1] = b[1] => a[2] = b[2]

\* I2.
LogsMatch ==
  \A s, t \in Server : \A i \in 1..Min(Len(Log(s)), Len(Log(t))) :
    Log(s)[i] = Log(t)[i] => SubSeq(Log(s), 1, i) = SubSeq(Log(t), 1, i)

\* I3.
LeadersHoldWhatIsCommitted ==
  \A s \in Server : Leads(s) /\ Term(s) >= committed.term => IsPrefix(committed.log, Log(s))

\* I4.
CommittedIsOneHistory == \A s \in Server : IsPrefix(SubSeq(Log(s), 1, node[s].commit), committed.log)

\* I6.
CommittedIsDurable == \E q \in Quorums : \A s \in q : IsPrefix(committed.log, disk[s].log)

\* I9: while a lease lasts, in true time, nobody leads a later term.
LeaseExcludes == \A s, t \in Server : HasLease(s) /\ Leads(t) => Term(t) <= Term(s)

\* I10, G3.
NothingStaleIsWritten == ~resource.stale

\* A write was stamped by a leader of its term.
WritesAreLeaders == \A m \in msgs : m.type = "write" => <<m.term, m.from>> \in elected

\* C3: a node's commit index lies inside its log.
CommitIsInTheLog == \A s \in Server : node[s].commit <= Len(Log(s))
===============================================================================
