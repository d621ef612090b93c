# Forks: a child must not touch what belongs to its parent's pools. Every object
# here remembers the generation it was made in; the child starts a new one.

import os

cdef unsigned fork_generation = 0
cdef uint64_t forks_begun = 0       # goes up at each fork by this process: children may see what it saw then

cdef uint64_t lost_to_children = 0  # bytes that this process has not given back because of them


def _begin_fork():
    global forks_begun
    forks_begun += 1


def _count_fork():
    global fork_generation, lost_to_children
    fork_generation += 1
    lost_to_children = 0


# Counted on both sides: other threads may run between either hook and the fork itself.
os.register_at_fork(before=_begin_fork, after_in_parent=_begin_fork, after_in_child=_count_fork)
