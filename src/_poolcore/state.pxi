# What a pool is at this moment: its state, its workers, what the supervisor is told.


@cython.final
@cython.no_gc_clear      # the core looks at it when it goes
cdef class Table:
    """The workers' channels; replaced, never changed, so that a thread that
    waits without the GIL keeps the rings it looks at mapped."""

    def __cinit__(self, list channels):
        cdef uint32_t i
        self.channels = channels
        self.count = <uint32_t> len(channels)
        self.items = <PyObject **> PyMem_Malloc((self.count + 1) * sizeof(void *))
        self.rings = <cp_consumer **> PyMem_Malloc((self.count + 1) * sizeof(void *))
        if self.items == NULL or self.rings == NULL:
            raise MemoryError()
        for i in range(self.count):
            self.items[i] = <PyObject *> channels[i]
            self.rings[i] = &(<Channel> channels[i]).completion

    def __dealloc__(self):
        PyMem_Free(self.items)
        PyMem_Free(self.rings)


cdef tuple _STATES = ("not running", "starting", "running", "closed", "terminated", "broken")


cdef str state_name(uint64_t state):
    return _STATES[state] if state < 6 else "unknown"


cdef inline int check_process(Core core) except -1:
    if CP_UNLIKELY(core.fork_generation != fork_generation):
        raise _errors.WrongProcess("this pool belongs to the process that made it; a forked child cannot use it")
    return 0


cdef int check_running(Core core) except -1:
    check_process(core)
    if core.state == RUNNING:
        return 0
    if core.state == CLOSED:
        raise _errors.PoolClosed("the pool is closed: it takes no new tasks")
    if core.state == TERMINATED:
        raise _errors.PoolTerminated("the pool was terminated")
    if core.state == BROKEN:
        kind, details = core.broken
        raise kind(**details)
    raise _errors.PoolNotRunning("the pool is not running: call run() first")


cdef inline void attention(Core core) noexcept:
    """Calls the supervisor."""
    if core.supervisor_bell >= 0:
        cp_bell_ring(core.supervisor_bell)


cdef void set_channels(Core core, list channels):
    core.table = Table(channels)
    measure_depth(core)
    show_workers(core)
    # a leader in its sleep watches the old rings only
    kick_leader(core)
    if core.loop.waiter != NULL:
        cp_bell_ring(core.reaper.bell[1])   # a worker's first words may come while the loop is busy


cdef object prune(Core core, uint64_t now):
    cdef int64_t next_time = arena_prune(core.arguments, now)
    cdef uint32_t i
    for i in range(core.table.count):
        next_time = sooner(next_time, peer_prune((<Channel> core.table.items[i]).results, now))
    core.keeping = next_time >= 0
    return next_time / 1e9 if core.keeping else None


cdef void core_keeps(void *owner) noexcept:
    cdef Core core = <Core> owner
    if not core.keeping:
        core.keeping = True
        attention(core)
