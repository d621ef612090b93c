# apply_async: encode, wait for a slot, place the job.

cdef enum:
    INLINE_REAP = 128       # submissions between two reaps by apply_async itself
    STAMP_BELOW = 32        # in flight, of each task it is told how long it has waited
    STAMP_ONE_IN = 32       # above


cdef AsyncResult submit(Core core, object target, object args, object kwargs,
                        object callbacks, object errbacks, object acknowledge,
                        object meta, object keeper, Options options):
    cdef Limits limits = core.deadlines.limits
    cdef uint16_t flags = 0
    check_running(core)
    callbacks = checked_callables(core, callbacks, "callback(result, meta)")
    errbacks = checked_callables(core, errbacks, "errback(exc, meta)")
    if acknowledge is not None:
        checked(acknowledge, 0, "on_acknowledge()")
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
        args = arguments_of(args)
    if kwargs is not None:
        kwargs = keywords_of(kwargs)

    cdef AsyncResult job = send(core, target, args, kwargs, callbacks, errbacks, acknowledge, meta,
                                keeper, limits, options, flags, 0)
    reap_if_due(core)
    return job


cdef AsyncResult send(Core core, object target, object args, object kwargs, object callbacks,
                      object errbacks, object acknowledge, object meta, object keeper,
                      Limits limits, Options options, uint16_t flags, uint16_t marks):
    """One task, whose arguments are what they have to be: a tuple or, with CP_MANY, a sequence
    of items. If it raises, there is no job."""
    cdef uint64_t size = 0
    cdef AsyncResult job
    cdef Function function = function_for(core, target)
    cdef object payload
    if function is None:
        if not callable(target):
            raise TypeError(f"target must be callable, not {type(target).__name__}")
        flags |= CP_TARGET
        payload = encode(core.codec, (target, args, kwargs))
    elif kwargs is not None:
        flags |= CP_KWARGS
        payload = encode(core.codec, (args, kwargs))
    elif flags & CP_MANY or PyTuple_GET_SIZE(args):
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
    elif CP_UNLIKELY(others_may_have_ended(core)):
        reap_inline(core)
    check_running(core)

    job = new_job(core, callbacks, errbacks, meta, keeper)
    job.acknowledge = acknowledge
    job.payload = payload
    job.function = function
    job.flags = flags
    job.marks = marks
    job.number = fresh_number(core)
    if options is not None:
        job.marks |= options.marks
    core.bytes_in_flight += size
    if CP_UNLIKELY(is_stamped(core)):
        stamp(core, job)
    if limits is not None:
        job.limits = limits
        limits_begin(core, job)
    place(core, job)
    return job


cdef inline bint is_stamped(Core core) noexcept:
    return (core.in_flight <= STAMP_BELOW or not core.submitted & (STAMP_ONE_IN - 1)
            or cp_peek(&core.control.trace_until) != 0)


cdef void stamp(Core core, AsyncResult job) noexcept:
    """Its worker will count how long it has waited."""
    job.accepted = cp_now()
    if CP_UNLIKELY(cp_peek(&core.control.trace_until) != 0) and cp_peek(&core.control.trace_until) < job.accepted:
        cp_poke(&core.control.trace_until, 0)


cdef inline int reap_if_due(Core core) except -1:
    """After each submission. May raise what a callback has raised."""
    core.since_reap += 1
    if core.since_reap >= INLINE_REAP:
        reap_inline(core)
    return 0


cdef inline int check_size(Core core, uint64_t size) except -1:
    if size > core.max_bytes:
        raise _errors.PayloadTooLarge(
            f"the pickled arguments take {size} bytes, more than max_bytes={core.max_bytes}")
    return 0


cdef AsyncResult submit_ended(Core core, object error, object callbacks, object errbacks,
                              object meta, object keeper, uint16_t marks):
    """A job that no worker has to do with: what failed before it could be placed."""
    cdef AsyncResult job
    check_running(core)
    job = new_job(core, callbacks, errbacks, meta, keeper)
    job.marks = marks
    job.number = fresh_number(core)
    job.payload = error
    job.outcome = RAW_RESULT if error is None else EXCEPTION
    job_collected(core, job)
    bury(core)
    notify(core)
    return job


cdef inline bint no_room(Core core, uint64_t size) noexcept:
    return (core.in_flight >= core.limit or core.bytes_in_flight + size > core.max_bytes or
            core.waiting_callbacks >= core.limit and not inside_dispatch(core))


cdef inline bint no_slot(Core core, uint64_t size) noexcept:
    """For one that comes: if somebody has waited for long, there is none."""
    return no_room(core, size) or core.waiting.starving and not inside_dispatch(core)


cdef inline bint others_may_have_ended(Core core) noexcept:
    """Whether it is time to look, for a submitter that is busy between its submissions:
    it holds the GIL then, for which the reaper waits. Most of what is in flight was
    submitted since the last look, or the reaper has been rung; no clock is asked. An
    event loop looks by itself."""
    if cp_peek(&core.reaper.rung):
        return True
    return core.in_flight and 2 * <uint64_t> core.since_reap >= core.in_flight and core.loop.waiter == NULL


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


cdef Options _at_once = Options.__new__(Options)    # block=False


cdef Options options_of_futures():
    cdef Options options = Options.__new__(Options)
    options.slot_deadline = -1
    options.marks = OF_FUTURE
    return options

cdef Options _of_future = options_of_futures()


cdef Options options_of(Core core, object soft_timeout, object timeout, object expires,
                        object accept, bint block, object slot_timeout):
    cdef Options options = Options.__new__(Options)
    cdef Limits pool = core.deadlines.limits
    if soft_timeout is not None or timeout is not None or expires is not None:
        options.limits = limits_of(
            seconds_or(soft_timeout, pool.soft if pool is not None else 0),
            seconds_or(timeout, pool.hard if pool is not None else 0), expires_at(expires))
    if accept is not None:
        options.accept = checked(accept, 2, "accept_callback(pid, time_accepted)")
    options.slot_deadline = deadline_after(slot_timeout) if block else 0
    return options


cdef Acceptance acceptance(object acknowledge, object accept):
    cdef Acceptance both = Acceptance.__new__(Acceptance)
    both.acknowledge = acknowledge
    both.accept = accept
    return both
