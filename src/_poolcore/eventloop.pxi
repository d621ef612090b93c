# An event loop of the user's (asyncio, selectors, ...) as the one that collects.
#
# It sleeps in its own select(), on a descriptor that is readable while our
# doorbell or a bell of its own is rung. To the rest of us it is one more waiter:
# while it listens and no caller leads it is the leader, parked; the workers ring
# the doorbell once an epoch. Its own bell is for what does not come over a ring,
# and for what other threads have collected.
#
# Whoever drains the doorbell while the loop leads (hush) lets it listen again
# with a new epoch, and looks once more: so nothing is lost between the two.
# While there is a loop, the background reaper never leads: it looks by the
# clock, for what rings no bell.

cdef int watched_fd(Core core) except -1:
    if core.callbacks_in != CALLER_ONLY:
        raise _errors.PoolError(
            "fileno() needs callbacks_in='caller': the pool would run callbacks in its own thread, too")
    if core.loop.fd < 0:
        with _forkguard.lock:
            if core.loop.bell[0] < 0:
                check_fd(cp_bell_create(core.loop.bell))
            core.loop.fd = check_fd(cp_bells_watch(core.bell[0], core.loop.bell[0]))
    if core.state != IDLE and core.state != STARTING:   # else the reaper hears of the workers' start
        watch(core)
    return core.loop.fd


cdef int watch(Core core) except -1:
    """From now on a loop waits at loop_fd."""
    cdef Waiter *loop
    if core.loop.waiter != NULL:
        return 0
    loop = <Waiter *> PyMem_Calloc(1, sizeof(Waiter))
    if loop == NULL:
        raise MemoryError()
    loop.kind = WAIT_LOOP
    core.loop.waiter = loop
    enter(core, core.loop.waiter)
    if core.waiting.leader != NULL and core.waiting.leader == core.reaper.waiter:
        cp_publish(&core.control.parent_epoch, 0)
        core.waiting.leader = NULL
    call_reaper(core)
    listen(core)
    return 0


cdef inline void ring_loop(Core core) noexcept:
    if not core.loop.rung:
        core.loop.rung = True
        cp_bell_ring(core.loop.bell[1])


cdef bint hush(Core core) noexcept:
    """The loop looks by itself from now on; its descriptor is readable no more.
    Returns whether it listened."""
    cdef bint listened = core.loop.listens
    core.loop.listens = False
    if core.loop.rung:
        core.loop.rung = False
        cp_bell_drain(core.loop.bell[0])
    if core.waiting.leader == core.loop.waiter:
        core.waiting.leader = NULL
        cp_publish(&core.control.parent_epoch, 0)
    if core.waiting.leader == NULL:             # else it is for the leader
        cp_bell_drain(core.bell[0])
    return listened


cdef void listen(Core core) noexcept:
    """The loop is about to sleep: it hears of everything that it has not seen."""
    core.loop.listens = True
    core.loop.seen = core.collected
    promote(core)
    if holds(core, core.loop.waiter):
        ring_loop(core)
