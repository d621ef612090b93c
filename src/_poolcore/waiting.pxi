# Waiting in the parent. Whoever has to wait helps: it collects by itself.
#
# Who waits for a slot is served in the order of coming. A thread that submits in a loop
# may come in between, since handing each slot over would cost a change of threads a
# task; but once the first of those that sleep has waited for STARVING_NS, nobody does.
#
# Exactly one thread, the leader, spins and parks on the doorbell; the others
# follow: they sleep on a lock of their own until notify() finds that their
# condition holds. Who stops leading promotes a follower. The background reaper
# (reaper.pxi) stands by, or an event loop of the user's in its stead (eventloop.pxi).

cdef enum:
    STARVING_NS = 5000000       # who has waited so long for a slot gets the next one
    LAZY_LOOK_NS = 10000000     # a leader looks by itself while tasks run, from this often
    LONGEST_LOOK_NS = 1000000000    # ... to this, if nothing happens

# The main thread looks for signals this often, should one arrive between its
# last check and its sleep.
cdef int64_t LONGEST_SLEEP = 1000000000


cdef bint holds(Core core, Waiter *w) noexcept:
    cdef AsyncResult job
    cdef JobFuture future
    if w.kind == WAIT_SLOT:
        return core.state != RUNNING or (
            (not core.waiting.starving or w.inside_dispatch or w == first_for_a_slot(core)) and
            core.in_flight < core.limit and core.bytes_in_flight + w.target <= core.max_bytes and
            (w.inside_dispatch or core.waiting_callbacks < core.limit))
    if w.kind == WAIT_REAPED:
        return core.reaped > w.target or core.in_flight + core.waiting_callbacks == 0
    if w.kind == WAIT_COLLECTED:
        return core.collected > w.target or core.in_flight == 0
    if w.kind == WAIT_JOB:
        job = <AsyncResult> w.subject
        if job.state == FINISHED or (w.inside_dispatch and job.state != PENDING):
            return True
        return (job.marks & QUEUED and job.state == COLLECTED and core.dispatcher == 0 and
                core.callbacks_in != REAPER_ONLY)
    if w.kind == WAIT_WINDOW:
        return (window_first(<Window> w.subject, w.inside_dispatch) != NULL or
                (<Window> w.subject).over and (<Window> w.subject).count == (<Window> w.subject).taken)
    if w.kind == WAIT_DECODED:
        return not (<AsyncResult> w.subject).marks & DECODING
    if w.kind == WAIT_FUTURE:
        future = <JobFuture> w.subject
        return future_is_over(future) and not (w.target and future.due)
    if w.kind == WAIT_EVENT:
        return (<HelpingEvent> w.subject).happened
    if w.kind == WAIT_DISPATCHER:
        return core.dispatcher == 0
    if w.kind == WAIT_DRAINED:
        return core.in_flight == 0 and (w.inside_dispatch or core.waiting_callbacks == 0)
    if w.kind == WAIT_LOOP:
        return core.loop.listens and (
            core.collected != core.loop.seen or core.outbox.first != NULL and core.dispatcher == 0)
    return reaper_is_done(core) or core.due.first != NULL or (
        core.outbox.first != NULL and core.dispatcher == 0 and core.callbacks_in != CALLER_ONLY)


cdef Waiter *first_for_a_slot(Core core) noexcept:
    cdef Waiter *w = core.waiting.first
    while w != NULL and (w.kind != WAIT_SLOT or w.inside_dispatch):
        w = w.next
    return w


cdef inline void falls_asleep(Waiter *w) noexcept nogil:
    if cp_peek(&w.since) == 0:
        cp_poke(&w.since, cp_now())


cdef inline bint has_starved(Waiter *w) noexcept:
    cdef uint64_t since = cp_peek(&w.since)
    return since and cp_now() - since > STARVING_NS


cdef inline bint has_callbacks_to_run(Core core, Waiter *w) noexcept:
    """Where only callers run them, one that sleeps has to be woken for it."""
    return (core.callbacks_in == CALLER_ONLY and core.outbox.first != NULL and
            core.dispatcher == 0 and dispatches_inline(w))


cdef inline bint dispatches_inline(Waiter *w) noexcept:
    return w.kind == WAIT_SLOT or w.kind == WAIT_REAPED or w.kind == WAIT_DRAINED


cdef void notify(Core core) noexcept:
    """Wakes those whose condition holds. After every change that may make one hold."""
    cdef Waiter *w = core.waiting.first
    cdef Waiter *first
    cdef uint64_t slots = 0
    if w == NULL:
        return
    if not core.waiting.starving:
        first = first_for_a_slot(core)
        core.waiting.starving = first != NULL and has_starved(first)
    while w != NULL:
        if holds(core, w) or has_callbacks_to_run(core, w):
            if w.kind == WAIT_SLOT and core.state == RUNNING:
                # no more of them than there are slots; who has been woken is about to take one
                slots += 1
                if slots > core.limit - core.in_flight:
                    w = w.next
                    continue
            if w.woken:
                pass
            elif w == core.reaper.waiter:
                call_reaper(core)
            elif w.kind == WAIT_LOOP:
                ring_loop(core)
            elif w == core.waiting.leader:
                kick_leader(core)
            else:
                wake(w)
        w = w.next


cdef inline void wake(Waiter *w) noexcept:
    if w.lock != NULL and not w.woken:
        w.woken = True
        PyThread_release_lock(w.lock)


cdef inline void kick_leader(Core core) noexcept:
    kick(core)
    cp_bell_ring(core.bell[1])


cdef inline void kick(Core core) noexcept:
    """Who leads and does not sleep yet looks again."""
    cp_publish(&core.waiting.kick, cp_peek(&core.waiting.kick) + 1)


cdef int wait_for(Core core, WaitKind kind, object subject, uint64_t target, int64_t deadline) except -1:
    """1 once the condition holds; 0 past the deadline (see deadline_after)."""
    cdef Waiter w
    cdef int64_t left = -1
    cdef int64_t next_poll
    memset(&w, 0, sizeof(w))
    w.kind = kind
    w.subject = <PyObject *> subject
    w.target = target
    w.thread = PyThread_get_thread_ident()
    w.inside_dispatch = inside_dispatch(core)
    enter(core, &w)
    try:
        while True:
            next_poll = poll_foreign(core)      # first: it runs user code
            collect(core, True)
            if not w.inside_dispatch and core.callbacks_in != REAPER_ONLY:
                help_dispatch(core, &w)
            if kind == WAIT_EVENT or kind == WAIT_FUTURE:
                tell_due(core)
            notify(core)
            if holds(core, &w):
                return 1
            if deadline >= 0:
                left = deadline - <int64_t> cp_now()
                if left <= 0:
                    return 0
            left = sooner(left, next_poll)
            if core.waiting.leader == NULL or stands_by(core, core.waiting.leader):
                lead(core, &w, sooner(left, LONGEST_SLEEP))
            else:
                falls_asleep(&w)
                follow(&w, sooner(left, LONGEST_SLEEP))
            PyErr_CheckSignals()
    finally:
        leave(core, &w)


cdef int help_dispatch(Core core, Waiter *w) except -1:
    """Inline dispatch, where it is documented; get() and wait() run their own
    job's callbacks at most."""
    cdef AsyncResult job
    if dispatches_inline(w):
        dispatch(core, core.outbox.count)
    elif w.kind == WAIT_JOB and core.dispatcher == 0:
        job = <AsyncResult> w.subject
        if job.marks & QUEUED and job.state == COLLECTED:
            dispatch_one(core, job)
    return 0


cdef void enter(Core core, Waiter *w) noexcept:
    w.prev = core.waiting.last
    if w.prev != NULL:
        w.prev.next = w
    else:
        core.waiting.first = w
    core.waiting.last = w
    if not stands_by(core, w):
        cp_bump(&core.waiting.inside, 1)


cdef void leave(Core core, Waiter *w) noexcept:
    if w.prev != NULL:
        w.prev.next = w.next
    else:
        core.waiting.first = w.next
    if w.next != NULL:
        w.next.prev = w.prev
    else:
        core.waiting.last = w.prev
    if w.kind == WAIT_SLOT and core.waiting.starving:
        core.waiting.starving = False   # it may have been the one
        notify(core)
    if stands_by(core, w):
        return
    cp_poke(&core.waiting.inside, cp_peek(&core.waiting.inside) - 1)
    promote(core)


cdef void promote(Core core) noexcept:
    """Whoever led does so no more: another one shall."""
    cdef Waiter *other = core.waiting.first
    if core.waiting.leader != NULL:
        return
    while other != NULL:                # a caller that follows comes first
        if other != core.reaper.waiter and other.lock != NULL:
            wake(other)
            return
        other = other.next
    if core.loop.waiter != NULL:
        if core.loop.listens:
            arm(core, core.loop.waiter)
            if core.imbalanced or core.backlog.jobs.count:
                hurry_lookout(core)
    elif core.reaper.waiter != NULL:
        if core.reaper.polls:
            arm(core, core.reaper.waiter)
        else:
            wake(core.reaper.waiter)


cdef inline bint stands_by(Core core, Waiter *w) noexcept:
    """It leads only while no caller does."""
    return w.kind == WAIT_REAPER or w.kind == WAIT_LOOP


cdef void arm(Core core, Waiter *w) noexcept:
    """One that sleeps at the doorbell meanwhile leads again."""
    cdef cp_any look
    core.waiting.leader = w
    what_leader_awaits(core, core.table, &look)
    core.waiting.epoch += 1
    cp_publish(&core.control.parent_epoch, core.waiting.epoch)
    if cp_any_pending(&look):
        cp_bell_ring(core.bell[1])


cdef inline void what_leader_awaits(Core core, Table table, cp_any *look) noexcept:
    look.rings = <const cp_consumer **> table.rings
    look.count = table.count
    look.kick = &core.waiting.kick
    look.kick_seen = cp_peek(&core.waiting.kick)


cdef void lead(Core core, Waiter *w, int64_t timeout) noexcept:
    """Waits, for `timeout` ns at most (<0: without limit), until a completion is
    published or somebody kicks."""
    cdef cp_any look
    cdef Table table = core.table       # stays mapped while we look
    cdef cp_patience *patience = &core.waiting.patience
    cdef bint parked = False
    cdef int second_bell = -1
    cdef bint reaps = w == core.reaper.waiter
    if core.waiting.leader != NULL:             # one that stands by: no more rings for it
        cp_publish(&core.control.parent_epoch, 0)
    core.waiting.leader = w
    if reaps:
        core.reaper.polls = True
        patience = &core.reaper.patience
        second_bell = core.reaper.bell[0]
    what_leader_awaits(core, table, &look)
    if core.in_flight == 0:
        show_progress(core)
    timeout = sooner(timeout, own_look(core, w))
    core.waiting.epoch += 1
    cdef uint64_t epoch = core.waiting.epoch
    with nogil:
        if not cp_wait_awake(patience, NULL, cp_any_pending, &look):
            parked = True
            falls_asleep(w)
            cp_park(&core.control.parent_epoch, epoch, core.bell[0], second_bell,
                    cp_any_pending, &look, timeout, patience)
        if reaps:
            cp_poke(&core.reaper.rung, 1)
    if reaps:
        cp_poke(&core.reaper.rung, 0)
        core.reaper.polls = core.reaper.sleeps = False
    if core.waiting.leader == w:                # nobody took the lead from us
        if parked:
            cp_unpark(&core.control.parent_epoch, core.bell[0])
        core.waiting.leader = NULL
    if parked and core.in_flight and not cp_any_pending(&look):
        core.look_after = min(2 * core.look_after, LONGEST_LOOK_NS)
        look_at_unclaimed(core)
        show_loads(core)


cdef int64_t own_look(Core core, Waiter *w) noexcept:
    """ns until the leader, or the reaper in its stead, looks without having been
    rung; -1: never."""
    if core.in_flight:                  # not everything that may happen rings
        if core.imbalanced or core.backlog.jobs.count:
            return core.look_after
        return max(core.look_after, LAZY_LOOK_NS)
    if w != core.reaper.waiter:
        return -1
    if core.loop.waiter != NULL and somebody_starts(core.table):
        return LAZY_LOOK_NS
    # until it is clear that nothing goes on
    core.reaper.sleeps = core.reaper.quiet >= QUIET_LOOKS
    core.reaper.quiet += 1
    return -1 if core.reaper.sleeps else LONGEST_LOOK_NS


cdef int follow(Waiter *w, int64_t timeout) except -1:
    """Sleeps until woken, `timeout` ns at most (<0: without limit)."""
    cdef PyThread_type_lock lock = PyThread_allocate_lock()
    cdef long long microseconds = -1 if timeout < 0 else timeout // 1000 + 1
    if lock == NULL:
        raise MemoryError()
    PyThread_acquire_lock(lock, 0)
    w.woken = False
    w.lock = lock
    with nogil:
        PyThread_acquire_lock_timed(lock, microseconds, 1)
    w.lock = NULL
    w.woken = False
    PyThread_free_lock(lock)
    return 0
