-------------------------------- MODULE TraceData --------------------------------
\* Seed 26 of the simulator.
EXTENDS Integers
TracePromise == 185000
TraceDrift == 1
Events == <<
  [do |-> "step", n |-> 1, t |-> 0, got |-> {},
   term |-> 0, vote |-> 0, role |-> "follower", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {}],
  [do |-> "step", n |-> 2, t |-> 0, got |-> {},
   term |-> 0, vote |-> 0, role |-> "follower", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {}],
  [do |-> "step", n |-> 3, t |-> 0, got |-> {},
   term |-> 0, vote |-> 0, role |-> "follower", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {}],
  [do |-> "step", n |-> 3, t |-> 214142, got |-> {},
   term |-> 1, vote |-> 3, role |-> "candidate", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {}],
  [do |-> "flush", n |-> 3, term |-> 1, vote |-> 3, last |-> <<0, 0>>],
  [do |-> "step", n |-> 3, t |-> 214460, got |-> {},
   term |-> 1, vote |-> 3, role |-> "candidate", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {[type |-> "ask", from |-> 3, term |-> 1, last |-> <<0, 0>>]}],
  [do |-> "step", n |-> 1, t |-> 214765, got |-> {[type |-> "ask", from |-> 3, term |-> 1, last |-> <<0, 0>>]},
   term |-> 1, vote |-> 3, role |-> "follower", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {}],
  [do |-> "flush", n |-> 1, term |-> 1, vote |-> 3, last |-> <<0, 0>>],
  [do |-> "step", n |-> 1, t |-> 215107, got |-> {},
   term |-> 1, vote |-> 3, role |-> "follower", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {[type |-> "grant", from |-> 1, to |-> 3, term |-> 1]}],
  [do |-> "step", n |-> 3, t |-> 215384, got |-> {[type |-> "grant", from |-> 1, to |-> 3, term |-> 1]},
   term |-> 1, vote |-> 3, role |-> "leader", commit |-> 0, last |-> <<1, 1>>, lease |-> 0,
   sent |-> {[type |-> "append", from |-> 3, term |-> 1, prev |-> 0, prevTerm |-> 0, entries |-> <<1>>, commit |-> 0, at |-> 215384],
    [type |-> "append", from |-> 3, term |-> 1, prev |-> 0, prevTerm |-> 0, entries |-> <<>>, commit |-> 0, at |-> 215384]}],
  [do |-> "step", n |-> 1, t |-> 215694, got |-> {[type |-> "append", from |-> 3, term |-> 1, prev |-> 0, prevTerm |-> 0, entries |-> <<1>>, commit |-> 0, at |-> 215384]},
   term |-> 1, vote |-> 3, role |-> "follower", commit |-> 0, last |-> <<1, 1>>, lease |-> 0,
   sent |-> {[type |-> "accepted", from |-> 1, to |-> 3, term |-> 1, match |-> 1, at |-> 215384]}]
>>
=====
