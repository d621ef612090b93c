# Forks: a child must not touch what belongs to its parent's pools. Every object
# here remembers the generation it was made in; the child starts a new one.

import os

cdef unsigned fork_generation = 0
cdef uint64_t forks_begun = 0       # by this process: children may see what it saw then


def _begin_fork():
    global forks_begun
    forks_begun += 1


def _count_fork():
    global fork_generation
    fork_generation += 1


os.register_at_fork(before=_begin_fork, after_in_child=_count_fork)
