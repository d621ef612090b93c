# apply_async: encode, wait for a slot, place the job.

cdef AsyncResult submit(Core core, object target, object args, object kwargs,
                        object callbacks, object errbacks, object acknowledge,
                        object meta, object keeper):
    cdef AsyncResult job
    cdef Function function
    cdef bytes payload
    cdef uint16_t flags = 0
    check_running(core)
    if not callable(target):
        raise TypeError(f"target must be callable, not {type(target).__name__}")
    callbacks = checked_callables(callbacks, "callbacks")
    errbacks = checked_callables(errbacks, "errbacks")
    if acknowledge is not None:
        if not callable(acknowledge):
            raise TypeError(f"on_acknowledge must be callable, not {type(acknowledge).__name__}")
        flags |= CP_WANT_ACK
    if args is None:
        args = ()
    elif type(args) is not tuple:
        args = tuple(args)
    if kwargs is not None and not kwargs:
        kwargs = None

    function = function_for(core, target)
    if function is None:
        flags |= CP_TARGET
        payload = encode((target, args, kwargs))
    elif kwargs is not None:
        flags |= CP_KWARGS
        payload = encode((args, dict(kwargs)))
    elif PyTuple_GET_SIZE(args):
        payload = encode(args)
    else:
        payload = None
    cdef cp_extent extent
    if payload is not None and <uint64_t> PyBytes_GET_SIZE(payload) > core.longest:
        arena_write(&core.arguments, payload, &extent)
        payload = extent_bytes(extent)
        flags |= CP_IN_ARENA

    try:
        if no_slot(core):
            wait_for_slot(core)
        check_running(core)
    except BaseException:
        if flags & CP_IN_ARENA:
            arena_free(core.segment_fd, extent)
        raise

    job = new_job(core, callbacks, errbacks, meta, keeper)
    job.acknowledge = acknowledge
    job.payload = payload
    job.function = function
    job.flags = flags
    job.number = fresh_number(core)
    place(core, job)
    core.since_reap += 1
    if core.since_reap >= INLINE_REAP:
        reap_inline(core)
    return job


cdef inline AsyncResult new_job(Core core, object callbacks, object errbacks, object meta, object keeper):
    cdef AsyncResult job = AsyncResult.__new__(AsyncResult)
    # While in flight we hold it, so the cycle collector need not look: a million
    # jobs in flight would cost twice as much each.
    PyObject_GC_UnTrack(<PyObject *> job)
    job.core = core
    job.callbacks = callbacks
    job.errbacks = errbacks
    job.own_meta = meta
    if core.in_flight + core.waiting_callbacks == 0:
        core.keeper = keeper
    core.in_flight += 1
    core.submitted += 1
    return job


cdef object checked_callables(object given, str name):
    """None, one callable, or a tuple of at least two."""
    if given is None:
        return None
    if type(given) is not list and type(given) is not tuple:
        if callable(given):
            return given
        given = list(given)
    if len(given) == 1:
        one = given[0]
        if callable(one):
            return one
    for one in given:
        if not callable(one):
            raise TypeError(f"{name} must be callable, not {type(one).__name__}")
    return tuple(given) or None


cdef inline bint no_slot(Core core) noexcept:
    return core.in_flight >= core.limit or (
        core.waiting_callbacks >= core.limit and not inside_dispatch(core))


cdef int wait_for_slot(Core core) except -1:
    # usually a task has finished already, or does in a moment
    reap_inline(core)
    if no_slot(core):
        wait_for(core, WAIT_SLOT, None, 0, -1)
    return 0


cdef int reap_inline(Core core) except -1:
    core.since_reap = 0
    collect(core, True)
    if core.callbacks_in != REAPER_ONLY:
        dispatch(core, core.undelivered.count)
    notify(core)
    return 0


cdef inline void place(Core core, AsyncResult job) noexcept:
    """To the worker with the least to do, or to the backlog."""
    cdef PyObject *found
    if core.backlog.first == NULL:
        found = least_loaded(core.table)
        if found != NULL:
            if channel_push(<Channel> found, job):
                channel_publish(<Channel> found)
                return
            if (<Channel> found).corrupt:
                attention(core)
    job.marks |= BACKLOGGED
    jobs_append(&core.backlog, job)


cdef inline PyObject *least_loaded(Table table) noexcept:
    """Borrowed; NULL: no worker is ready. The first of equals, so that under
    little load the same worker stays warm and the others asleep."""
    cdef PyObject *best = NULL
    cdef uint32_t least = 0xffffffff
    cdef uint32_t i
    cdef Channel channel
    for i in range(table.count):
        if (<Channel> table.items[i]).open and (<Channel> table.items[i]).load < least:
            best = table.items[i]
            least = (<Channel> best).load
            if least == 0:
                break
    return best


cdef void refill(Core core) noexcept:
    """From the backlog to the rings, as far as there is room."""
    cdef PyObject *found
    cdef AsyncResult job
    cdef uint32_t i
    cdef bint any_pushed = False
    while core.backlog.first != NULL:
        found = least_loaded(core.table)
        if found == NULL:
            break
        job = <AsyncResult> core.backlog.first
        if not channel_push(<Channel> found, job):
            if (<Channel> found).corrupt:
                attention(core)
                continue
            break
        (<Channel> found).unpublished = any_pushed = True
        job.marks &= ~<uint8_t> BACKLOGGED
        jobs_remove(&core.backlog, job)
    if any_pushed:
        for i in range(core.table.count):
            if (<Channel> core.table.items[i]).unpublished:
                channel_publish(<Channel> core.table.items[i])
