-------------------------------- MODULE TraceData --------------------------------
\* Seed 1 of the simulator.
EXTENDS Integers
TracePromise == 21000
TraceDrift == 100
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
  [do |-> "step", n |-> 1, t |-> 38836, got |-> {},
   term |-> 1, vote |-> 1, role |-> "candidate", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {}],
  [do |-> "flush", n |-> 1, term |-> 1, vote |-> 1, last |-> <<0, 0>>],
  [do |-> "step", n |-> 1, t |-> 39917, got |-> {},
   term |-> 1, vote |-> 1, role |-> "candidate", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {[type |-> "ask", from |-> 1, term |-> 1, last |-> <<0, 0>>]}],
  [do |-> "step", n |-> 3, t |-> 44246, got |-> {[type |-> "ask", from |-> 1, term |-> 1, last |-> <<0, 0>>]},
   term |-> 1, vote |-> 1, role |-> "follower", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {[type |-> "grant", from |-> 3, to |-> 1, term |-> 1]}]
>>
=====
