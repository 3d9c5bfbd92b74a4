-------------------------------- MODULE TraceData --------------------------------
\* Seed 17 of the simulator.
EXTENDS Integers
TracePromise == 60000
TraceDrift == 200
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
  [do |-> "step", n |-> 1, t |-> 91060, got |-> {},
   term |-> 1, vote |-> 1, role |-> "candidate", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {}],
  [do |-> "flush", n |-> 1, term |-> 1, vote |-> 1, last |-> <<0, 0>>],
  [do |-> "step", n |-> 1, t |-> 91573, got |-> {},
   term |-> 1, vote |-> 1, role |-> "candidate", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {[type |-> "ask", from |-> 1, term |-> 1, last |-> <<0, 0>>]}],
  [do |-> "step", n |-> 3, t |-> 101741, got |-> {[type |-> "ask", from |-> 1, term |-> 1, last |-> <<0, 0>>]},
   term |-> 1, vote |-> 1, role |-> "follower", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {}],
  [do |-> "flush", n |-> 3, term |-> 1, vote |-> 1, last |-> <<0, 0>>],
  [do |-> "step", n |-> 3, t |-> 104459, got |-> {},
   term |-> 1, vote |-> 1, role |-> "follower", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {[type |-> "grant", from |-> 3, to |-> 1, term |-> 1]}],
  [do |-> "step", n |-> 1, t |-> 97883, got |-> {[type |-> "grant", from |-> 3, to |-> 1, term |-> 1]},
   term |-> 1, vote |-> 1, role |-> "leader", commit |-> 0, last |-> <<1, 1>>, lease |-> 0,
   sent |-> {[type |-> "append", from |-> 1, term |-> 1, prev |-> 0, prevTerm |-> 0, entries |-> <<1>>, commit |-> 0, at |-> 97883],
    [type |-> "append", from |-> 1, term |-> 1, prev |-> 0, prevTerm |-> 0, entries |-> <<>>, commit |-> 0, at |-> 97883]}],
  [do |-> "flush", n |-> 1, term |-> 1, vote |-> 1, last |-> <<1, 1>>],
  [do |-> "step", n |-> 3, t |-> 109216, got |-> {[type |-> "append", from |-> 1, term |-> 1, prev |-> 0, prevTerm |-> 0, entries |-> <<1>>, commit |-> 0, at |-> 97883]},
   term |-> 1, vote |-> 1, role |-> "follower", commit |-> 0, last |-> <<1, 1>>, lease |-> 0,
   sent |-> {}],
  [do |-> "step", n |-> 3, t |-> 109587, got |-> {[type |-> "append", from |-> 1, term |-> 1, prev |-> 0, prevTerm |-> 0, entries |-> <<>>, commit |-> 0, at |-> 97883]},
   term |-> 1, vote |-> 1, role |-> "follower", commit |-> 0, last |-> <<0, 0>>, lease |-> 0,
   sent |-> {[type |-> "accepted", from |-> 3, to |-> 1, term |-> 1, match |-> 0, at |-> 97883]}]
>>
=====
