# Dispatch: runs the callbacks of collected jobs. One dispatcher at a time, so
# callbacks of a pool never run concurrently; outside every critical section.

cdef inline bint inside_dispatch(Core core) noexcept:
    return core.dispatcher != 0 and core.dispatcher == PyThread_get_thread_ident()


cdef int64_t dispatch(Core core, uint64_t most) except -1:
    """Delivers at most `most` jobs, unless somebody else is at it; returns how
    many have ended with that."""
    cdef int64_t reaped = 0
    cdef AsyncResult job
    if core.dispatcher or core.outbox.first == NULL:
        return 0
    core.dispatcher = PyThread_get_thread_ident()
    promote(core)                   # callbacks may take long
    try:
        while most and core.outbox.first != NULL and core.interrupt is None:
            job = <AsyncResult> core.outbox.first
            reaped += deliver(core, job)
            job = None          # see bury
            most -= 1
    finally:
        core.dispatcher = 0
        notify(core)
    after_dispatch(core)
    return reaped


cdef int dispatch_one(Core core, AsyncResult job) except -1:
    """Delivers one job of the queue out of turn; nobody dispatches now."""
    core.dispatcher = PyThread_get_thread_ident()
    promote(core)
    try:
        deliver(core, job)
    finally:
        core.dispatcher = 0
        notify(core)
    return after_dispatch(core)


cdef int after_dispatch(Core core) except -1:
    let_keeper_go(core)
    show_progress(core)
    if core.interrupt is not None:
        interrupt = core.interrupt
        core.interrupt = None
        raise interrupt
    return 0


cdef bint deliver(Core core, AsyncResult job) except -1:
    """Takes the job off the queue and runs what is due. Whether it has ended."""
    job.marks &= ~<uint16_t> QUEUED
    jobs_remove(&core.outbox, job)
    if job.marks & ACK_DUE:
        job.marks &= ~<uint16_t> ACK_DUE
        acknowledge, job.acknowledge = job.acknowledge, None
        if acknowledge is not None:     # else on_return was called by hand
            tell_accepted(core, job, acknowledge)
    if job.state != COLLECTED:
        return False
    job.state = DELIVERING
    try:
        job_settle(job)
    except BaseException:           # a Ctrl-C: once more, later
        job.state = COLLECTED
        job.marks |= QUEUED
        jobs_prepend(&core.outbox, job)
        raise
    count_outcome(core, job, job.outcome == VALUE)
    try:
        run_what_is_due(core, job)
    finally:
        core.delivering = None
        core.waiting_callbacks -= 1
        job_finished(core, job)
    if others_wait(core):
        notify(core)
    return True


cdef inline bint others_wait(Core core) noexcept:
    """Whether a caller besides the one that runs the callbacks does."""
    cdef Waiter *w = core.waiting.first
    while w != NULL:
        if w != core.reaper.waiter and w.thread != core.dispatcher:
            return True
        w = w.next
    return False


cdef int run_what_is_due(Core core, AsyncResult job) except -1:
    if job.marks & OF_FUTURE:
        return call_back(core, job.callbacks._invoke_callbacks, ())
    if core.overridden:
        core.delivering = job
        return call_back(core, core.keeper.on_return, (
            returned_value(job), job_tid(job), listed(job.callbacks), listed(job.errbacks),
            job_meta(job)))
    due = job.callbacks if job.outcome == VALUE else job.errbacks
    if due is not None:
        run_callbacks(core, due, job.payload, job_meta(job))
    return 0


cdef int run_callbacks(Core core, object callbacks, object argument, object meta) except -1:
    if type(callbacks) is not tuple:
        try:
            return call_with_two(callbacks, argument, meta)
        except BaseException as error:
            return note_error(core, callbacks, error)
    for callback in callbacks:
        call_back(core, callback, (argument, meta))
    return 0


cdef inline int call_with_two(object callback, object argument, object meta) except -1:
    callback(argument, meta)
    return 0


cdef int run_by_hand(Core core, object callbacks, object argument, object meta) except -1:
    """For an on_ready that nobody dispatches: one dispatcher at a time, here too."""
    if inside_dispatch(core):
        return run_callbacks(core, callbacks, argument, meta)
    check_process(core)
    wait_for(core, WAIT_DISPATCHER, None, 0, -1)
    core.dispatcher = PyThread_get_thread_ident()
    try:
        run_callbacks(core, callbacks, argument, meta)
    finally:
        core.dispatcher = 0
        notify(core)
    return after_dispatch(core)


cdef int call_back(Core core, object function, tuple arguments) except -1:
    try:
        function(*arguments)
    except BaseException as error:
        note_error(core, function, error)
    return 0


cdef int note_error(Core core, object function, object error) except -1:
    """An Exception of a callback is logged; SystemExit and the like wait until the
    bookkeeping is done (after_dispatch). Both are counted."""
    core.callback_errors += 1
    if isinstance(error, Exception):
        try:
            # three, as one that is false in a truth test would be none
            core.logger.error("callback %r raised an exception", function,
                              exc_info=(type(error), error, error.__traceback__))
            return 0
        except Exception:
            _errors.report_unraisable("the logger raised an exception")
            return 0
        except BaseException as interrupt:
            error = interrupt
    if core.interrupt is None:
        core.interrupt = error
    return 0


cdef int tell_accepted(Core core, AsyncResult job, object acknowledge) except -1:
    cdef Acceptance both
    if type(acknowledge) is not Acceptance:
        return call_back(core, acknowledge, ())
    both = acknowledge
    if both.acknowledge is not None:
        call_back(core, both.acknowledge, ())
    return call_back(core, both.accept, (job.pid, job.accepted / 1e9))


cdef object returned_value(AsyncResult job):
    """What on_return gets: the result, or an ExceptionInfo."""
    if job.outcome == VALUE:
        return job.payload
    return _einfo.ExceptionInfo(job.payload)


cdef list listed(object callbacks):
    if callbacks is None:
        return []
    return list(callbacks) if type(callbacks) is tuple else [callbacks]

cdef int reap_inline(Core core) except -1:
    core.since_reap = 0
    collect(core, True)
    in_debug_builds(core)
    if core.callbacks_in != REAPER_ONLY:
        dispatch(core, core.outbox.count)
    notify(core)
    return 0
