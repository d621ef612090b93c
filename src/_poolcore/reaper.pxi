# The background reaper: collects and runs callbacks while nobody is inside. It waits
# like everybody else, but a caller takes the lead from it at once, and it keeps away
# while callers are busy. While an event loop leads, it looks by the clock alone.

cdef enum:
    BUSY_FOREGROUND = 64    # reaped by callers within a tick: the reaper stays away
    QUIET_TICKS = 20        # without that, and it sleeps until a caller leaves
    QUIET_LOOKS = 3         # with nothing in flight, and it sleeps until a submission


cdef int run_reaper(Core core) except -1:
    cdef Waiter w
    memset(&w, 0, sizeof(w))
    w.kind = WAIT_REAPER
    core.reaper.waiter = &w
    enter(core, &w)
    try:
        while not reaper_is_done(core):
            collect(core, False)
            notify(core)
            # a SystemExit of a callback ends in threading.excepthook, but not the reaper
            try:
                tell_due(core)
                if core.callbacks_in != CALLER_ONLY:
                    dispatch(core, core.outbox.count)
            except BaseException as error:
                _errors.report_in_thread(error)
            wait_as_reaper(core, &w)
    finally:
        core.reaper.waiter = NULL
        leave(core, &w)
    return 0


cdef int wait_as_reaper(Core core, Waiter *w) except -1:
    cdef int64_t left
    cp_poke(&core.reaper.due, 0)
    left = poll_foreign(core)
    if holds(core, w):
        return 0
    if core.loop.waiter != NULL:
        look_out(core, w, left)
        return 0
    with nogil:
        keep_away(core)
        cp_poke(&core.reaper.rung, 1)
    cp_poke(&core.reaper.rung, 0)
    if holds(core, w) or cp_observe(&core.reaper.due):
        return 0
    if core.waiting.leader == NULL:
        lead(core, w, left)
        cp_bell_drain(core.reaper.bell[0])
    else:
        follow(w, left)
    return 0


cdef void keep_away(Core core) noexcept nogil:
    """While callers wait or reap by themselves we would only be in their way."""
    cdef uint64_t gathered
    cdef int quiet = 0
    while not cp_observe(&core.reaper.due) and quiet < QUIET_TICKS:
        gathered = cp_peek(&core.reaper.gathered)
        if not cp_peek(&core.waiting.inside) and gathered - core.reaper.gathered_seen < BUSY_FOREGROUND:
            core.reaper.gathered_seen = gathered
            return
        quiet = quiet + 1 if gathered == core.reaper.gathered_seen else 0
        core.reaper.gathered_seen = gathered
        cp_sleep(TICK_NS)


cdef inline bint reaper_is_done(Core core) noexcept:
    """It is to end, and has delivered what is its to deliver."""
    return core.reaper.stop and core.untold == 0 and (
        core.outbox.first == NULL or core.callbacks_in == CALLER_ONLY)


cdef void call_reaper(Core core) noexcept:
    cp_publish(&core.reaper.due, 1)
    if core.reaper.waiter != NULL:
        wake(core.reaper.waiter)
        if core.reaper.polls:
            kick(core)          # on a busy machine it yields for long before it sleeps at its bell
            cp_bell_ring(core.reaper.bell[1])


cdef void look_out(Core core, Waiter *w, int64_t timeout) noexcept:
    """The reaper's wait while there is a loop: `timeout` ns at most (<0: without
    limit), until the clock or somebody calls."""
    cdef cp_any look
    cdef uint64_t collected = core.collected
    timeout = sooner(timeout, own_look(core, w))
    core.loop.lookout_at = UNLIMITED if timeout < 0 else cp_now() + <uint64_t> timeout
    core.reaper.polls = True
    with nogil:
        cp_bell_wait(core.reaper.bell[0], -1, timeout)
    core.reaper.polls = core.reaper.sleeps = False
    cp_bell_drain(core.reaper.bell[0])
    what_leader_awaits(core, core.table, &look)
    if core.in_flight and not cp_any_pending(&look):
        if core.collected == collected:
            core.look_after = min(2 * core.look_after, LONGEST_LOOK_NS)
        look_at_unclaimed(core)
        show_loads(core)


cdef void hurry_lookout(Core core) noexcept:
    """Something has to be looked at sooner than the reaper knows."""
    if core.loop.lookout_at > cp_now() + 2 * <uint64_t> core.look_after:
        core.loop.lookout_at = 0
        cp_bell_ring(core.reaper.bell[1])


cdef bint somebody_starts(Table table) noexcept:
    cdef uint32_t i
    for i in range(table.count):
        if not (<Channel> table.items[i]).greeted:
            return True
    return False
