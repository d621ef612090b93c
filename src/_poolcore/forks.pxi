# Forks: a child must not touch what belongs to its parent's pools. Every object
# here remembers the generation it was made in; the child starts a new one.

import os

cdef unsigned fork_generation = 0


def _count_fork():
    global fork_generation
    fork_generation += 1


os.register_at_fork(after_in_child=_count_fork)
