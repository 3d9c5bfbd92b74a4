----------------------------------- MODULE MC -----------------------------------
(* Termgate within bounds, for TLC.                                                 *)
(*                                                                                  *)
(* Three things keep the models small, and none of them hides a state that matters: *)
(* nodes that are alike may change names; a message that can do nothing any more is *)
(* forgotten at once; and a model may begin in a state (Led, Split, Succeeded) that it would   *)
(* otherwise only have to find first.                                               *)
EXTENDS Termgate, TLC

CONSTANTS
  A, B, C,  \* the nodes
  Parts,    \* what a model looks at besides votes: "resigning", "refusals", "log", "resource"
  MaxTerm, MaxLog, MaxBatch, MaxTick, MaxCrash, MaxWrite

VARIABLE spent  \* ticks, crashes of nodes and of the resource, and admitted writes so far

Alike == Permutations(Server)
OthersAlike == Permutations(Server \ {A})

Start == spent = [tick |-> 0, crash |-> 0, write |-> 0]
FromNothing == Init /\ Start

\* Each node's log, term and vote are on its disk; the rest is each start's own.
Somewhere(log, term, vote) ==
  /\ disk = [s \in Server |-> [term |-> term[s], vote |-> vote[s], log |-> log[s]]]
  /\ queue = [s \in Server |-> <<>>]
  /\ held = [s \in Server |-> {}]
  /\ clock = [s \in Server |-> 0]
  /\ rate \in [Server -> Rates]
  /\ Start

NoFence == msgs = {} /\ resource = [fence |-> 0, durable |-> 0, running |-> {}, last |-> 0, stale |-> FALSE]

\* A leads term 1, and all know its no-op to be committed.
Led ==
  LET follower == [Follower EXCEPT !.commit = 1]
      leader == [follower EXCEPT !.role = "leader", !.match = [s \in Server |-> 1]]
  IN /\ Somewhere([s \in Server |-> <<1>>], [s \in Server |-> 1], [s \in Server |-> A])
     /\ node = [s \in Server |-> IF s = A THEN leader ELSE follower]
     /\ elected = {<<1, A>>} /\ committed = [log |-> <<1>>, term |-> 1]
     /\ NoFence

\* A led term 1 and B term 2, and neither told anybody of its no-op; now A leads term 3 (figure 3.7 of the thesis).
Split ==
  LET log == [s \in Server |-> IF s = A THEN <<1, 3>> ELSE IF s = B THEN <<2>> ELSE <<>>]
  IN /\ Somewhere(log, [s \in Server |-> IF s = B THEN 2 ELSE 3], [s \in Server |-> IF s = B THEN B ELSE A])
     /\ node = [s \in Server |-> IF s = A THEN [Follower EXCEPT !.role = "leader"] ELSE Follower]
     /\ elected = {<<1, A>>, <<2, B>>, <<3, A>>} /\ committed = [log |-> <<>>, term |-> 0]
     /\ NoFence

\* B follows A, who does not know it yet and whose raise and writes may still be under way. B has just had its no-op committed.
Succeeded ==
  LET follower == [Follower EXCEPT !.commit = 2]
      leader == [follower EXCEPT !.role = "leader", !.contact[C] = 0]
      old == [Follower EXCEPT !.role = "leader", !.commit = 1, !.gate = 1]
  IN /\ Somewhere([s \in Server |-> IF s = A THEN <<1>> ELSE <<1, 2>>], [s \in Server |-> IF s = A THEN 1 ELSE 2],
                  [s \in Server |-> IF s = A THEN A ELSE B])
     /\ node = [s \in Server |-> IF s = A THEN old ELSE IF s = B THEN leader ELSE follower]
     /\ elected = {<<1, A>>, <<2, B>>} /\ committed = [log |-> <<1, 2>>, term |-> 2]
     /\ msgs = {[type |-> "raise", from |-> A, term |-> 1]}
               \cup {[type |-> "write", from |-> A, term |-> 1, id |-> id] : id \in 1..2}
     /\ resource = [fence |-> 1, durable |-> 1, running |-> {}, last |-> 0, stale |-> FALSE]

---------------------------------------------------------------------------------
(* Messages that can do nothing any more: terms on disk only grow, a vote on disk   *)
(* stays for its term, and nobody leads or asks twice in a term.                    *)

Past(s, m) == disk[s].term > m.term
IsDead(m) ==
  CASE m.type = "ask" -> \A s \in Server \ {m.from} : Past(s, m) \/ (disk[s].term = m.term /\ disk[s].vote # Nil)
    [] m.type = "grant" -> ~(node[m.to].role = "candidate" /\ Term(m.to) = m.term /\ m.from \notin node[m.to].granted)
    [] m.type = "append" -> \A s \in Server \ {m.from} : Past(s, m)
    [] m.type = "accepted" -> /\ Leads(m.to) /\ Term(m.to) = m.term
                              => m.match <= node[m.to].match[m.from] /\ m.at <= node[m.to].contact[m.from]
    [] m.type = "raised" -> \A s \in Server : ~Leads(s) \/ Term(s) # m.term \/ node[s].gate = m.term
    [] OTHER -> FALSE

Dead == {m \in msgs : IsDead(m)}
Forget ==
  /\ msgs' = msgs \ Dead
  /\ UNCHANGED <<disk, queue, held, node, world, history, spent>>

---------------------------------------------------------------------------------
Uses(what, most) == spent[what] < most /\ spent' = [spent EXCEPT ![what] = @ + 1]

Elects(s) ==
  \/ Term(s) < MaxTerm /\ Campaign(s)
  \/ TakeOffice(s) \/ Flush(s)
  \/ "resigning" \in Parts /\ Leads(s) /\ StepDown(s)
  \/ "refusals" \in Parts /\ \E t \in Server : LearnTerm(s, disk[t].term)
  \/ \E m \in msgs : OnAsk(s, m) \/ OnGrant(s, m)

\* From what a follower is known to hold, which at first is nothing; or the last entry, which may not fit there. Without
\* entries only where the model is about time.
Replicates(s) ==
  \/ Len(Log(s)) < MaxLog /\ Propose(s)
  \/ \E prev \in {node[s].match[t] : t \in Server} \cup (IF MaxBatch = 0 THEN {} ELSE {Len(Log(s)) - 1}) :
       LET last == Min(prev + MaxBatch, Len(Log(s)))
       IN (last > prev \/ MaxBatch = 0) /\ SendAppend(s, prev, last)
  \/ \E i \in 1..Len(Log(s)) : Commit(s, i)
  \/ \E m \in msgs : OnAppend(s, m) \/ OnAccepted(s, m)

Fences(s) == (node[s].gate < Term(s) /\ Raise(s)) \/ OpenGate(s) \/ Stamp(s, 1)

Guards ==
  \/ StoreFence(resource.fence) \/ AnswerRaise(resource.fence)
  \/ \E m \in msgs : OnRaise(m)
  \/ \E w \in resource.running : Written(w)

Bounded ==
  \/ UNCHANGED spent /\ \E s \in Server :
       Elects(s) \/ ("log" \in Parts /\ Replicates(s)) \/ ("resource" \in Parts /\ Fences(s))
  \/ Uses("crash", MaxCrash) /\ \E s \in Server : Restart(s)
  \/ Uses("tick", MaxTick) /\ Tick
  \/ "resource" \in Parts /\ UNCHANGED spent /\ Guards
  \/ "resource" \in Parts /\ Uses("crash", MaxCrash) /\ ResourceCrash
  \/ Uses("write", MaxWrite) /\ \E m \in msgs : OnWrite(m)

NextBounded == IF Dead = {} THEN Bounded ELSE Forget
=================================================================================
