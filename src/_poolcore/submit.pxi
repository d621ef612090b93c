# apply_async: encode, wait for a slot, place the job.

cdef AsyncResult submit(Core core, object target, object args, object kwargs,
                        object callbacks, object errbacks, object acknowledge,
                        object meta, object keeper, Options options):
    cdef Limits limits = core.limits
    cdef uint64_t size = 0
    cdef AsyncResult job
    cdef Function function
    cdef object payload
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
    if options is not None:
        if options.limits is not None:
            limits = options.limits
        if options.accept is not None:
            acknowledge = acceptance(acknowledge, options.accept)
            flags |= CP_WANT_ACK
    if args is None:
        args = ()
    elif type(args) is not tuple:
        args = tuple(args)
    if kwargs is not None:
        kwargs = dict(kwargs) or None

    function = function_for(core, target)
    if function is None:
        flags |= CP_TARGET
        payload = encode(core.codec, (target, args, kwargs))
    elif kwargs is not None:
        flags |= CP_KWARGS
        payload = encode(core.codec, (args, kwargs))
    elif PyTuple_GET_SIZE(args):
        payload = encode(core.codec, args)
    else:
        payload = None
    if payload is not None:
        check_size(core, encoded_bytes(payload))    # before it takes memory
        payload = fitted(core.codec, core.arguments, payload)
        size = payload_bytes(payload)
        check_size(core, size)
        if type(payload) is Parcel:
            flags |= CP_IN_ARENA
    if no_slot(core, size):
        wait_for_slot(core, size, options)
    check_running(core)

    job = new_job(core, callbacks, errbacks, meta, keeper)
    job.acknowledge = acknowledge
    job.payload = payload
    job.function = function
    job.flags = flags
    job.number = fresh_number(core)
    core.bytes_in_flight += size
    if limits is not None:
        job.limits = limits
        limits_begin(core, job)
    place(core, job)
    core.since_reap += 1
    if core.since_reap >= INLINE_REAP:
        reap_inline(core)
    return job


cdef inline int check_size(Core core, uint64_t size) except -1:
    if size > core.max_bytes:
        raise _errors.PayloadTooLarge(
            f"the pickled arguments take {size} bytes, more than max_bytes={core.max_bytes}")
    return 0


cdef AsyncResult submit_ended(Core core, object error, object callbacks, object errbacks,
                              object meta, object keeper):
    """A job that no worker has to do with: what failed before it could be placed."""
    cdef AsyncResult job
    check_running(core)
    job = new_job(core, checked_callables(callbacks, "callbacks"),
                  checked_callables(errbacks, "errbacks"), meta, keeper)
    job.number = fresh_number(core)
    job.payload = error
    job.outcome = RAW_RESULT if error is None else EXCEPTION
    job_collected(core, job)
    bury(core)
    notify(core)
    return job


cdef inline AsyncResult new_job(Core core, object callbacks, object errbacks, object meta, object keeper):
    cdef AsyncResult job = AsyncResult.__new__(AsyncResult)
    # While in flight we hold it, so the cycle collector need not look: a million
    # jobs in flight would cost twice as much each.
    PyObject_GC_UnTrack(<PyObject *> job)
    if CP_DEBUG:
        debug_alive["jobs"] += 1
    job.core = core
    job.callbacks = callbacks
    job.errbacks = errbacks
    job.own_meta = meta
    if core.in_flight + core.waiting_callbacks == 0:
        core.keeper = keeper
    core.in_flight += 1
    core.submitted += 1
    if CP_UNLIKELY(core.watch_first) and core.in_flight == 1:
        attention(core)
    if CP_UNLIKELY(core.reaper_sleeps):
        core.reaper_sleeps = False
        cp_bell_ring(core.reaper_bell[1])
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


cdef inline bint no_slot(Core core, uint64_t size) noexcept:
    return (core.in_flight >= core.limit or core.bytes_in_flight + size > core.max_bytes or
            core.waiting_callbacks >= core.limit and not inside_dispatch(core))


cdef int wait_for_slot(Core core, uint64_t size, Options options) except -1:
    # usually a task has finished already, or does in a moment
    reap_inline(core)
    if not no_slot(core, size):
        return 0
    if options is None:
        return wait_for(core, WAIT_SLOT, None, size, -1)
    if options.slot_deadline == 0 or not wait_for(core, WAIT_SLOT, None, size, options.slot_deadline):
        raise _errors.PoolFull("the pool is full")
    return 0


@cython.final
cdef class Options:
    """What apply_async may be asked for besides."""


cdef Options options_of(Core core, object soft_timeout, object timeout, object expires,
                        object accept, bint block, object slot_timeout):
    cdef Options options = Options.__new__(Options)
    cdef Limits pool = core.limits
    if soft_timeout is not None or timeout is not None or expires is not None:
        options.limits = limits_of(
            seconds_or(soft_timeout, pool.soft if pool is not None else 0),
            seconds_or(timeout, pool.hard if pool is not None else 0), expires_at(expires))
    if accept is not None and not callable(accept):
        raise TypeError(f"accept_callback must be callable, not {type(accept).__name__}")
    options.accept = accept
    options.slot_deadline = deadline_after(slot_timeout) if block else 0
    return options


cdef Acceptance acceptance(object acknowledge, object accept):
    cdef Acceptance both = Acceptance.__new__(Acceptance)
    both.acknowledge = acknowledge
    both.accept = accept
    return both


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
                if CP_UNLIKELY((<Channel> found).given >= (<Channel> found).nearly):
                    outgrown(core, <Channel> found)
                return
            if (<Channel> found).corrupt:
                attention(core)
            else:
                channel_publish(<Channel> found)    # the function's frame may have had room
    backlog_append(core, job)


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


cdef void outgrown(Core core, Channel channel) noexcept:
    """The worker has been given nearly all tasks of its life, or all."""
    if channel.given >= channel.most:
        channel_stop(channel)
        open_spare(core)
    attention(core)


cdef void open_spare(Core core) noexcept:
    """A worker has left the ranks: one that is ready takes its place."""
    cdef Table table = core.table
    cdef Channel channel, spare = None
    cdef uint32_t i, open_now = 0
    for i in range(table.count):
        channel = <Channel> table.items[i]
        open_now += channel.open
        if channel.spare and spare is None:
            spare = channel
    if spare is not None and open_now < core.processes:
        spare.spare = False
        spare.open = True
        core.imbalanced = True          # it may find something to take over
        kick_leader(core)
        if CP_UNLIKELY(spare.given >= spare.nearly):
            attention(core)


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
        prefetch_from(job)
        if not channel_push(<Channel> found, job):
            if (<Channel> found).corrupt:
                attention(core)
                continue
            break
        (<Channel> found).unpublished = any_pushed = True
        if CP_UNLIKELY((<Channel> found).given >= (<Channel> found).nearly):
            outgrown(core, <Channel> found)
        backlog_remove(core, job)
    if any_pushed:
        for i in range(core.table.count):
            if (<Channel> core.table.items[i]).unpublished:
                channel_publish(<Channel> core.table.items[i])
