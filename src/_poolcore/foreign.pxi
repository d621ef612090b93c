# Results of other pools in our queue (TaskPool.add): they take part in the limit
# and in dispatch. celery_pool/foreign.py watches those that cannot notify.


@cython.final
cdef class ForeignDone:
    """The done-callback of a Future: it may come before the Future is in the queue."""

    def __call__(self, future):
        job, self.job, self.done = self.job, None, True
        foreign_ended(job)


cdef object _Future = None

cdef object future_class():
    """concurrent.futures.Future, or None while nobody can have one: it is not imported."""
    global _Future
    if _Future is None:
        _Future = getattr(sys.modules.get("concurrent.futures._base"), "Future", None)
    return _Future


cdef object add_foreign(Core core, object result, object callbacks, object errbacks,
                        object tid, object meta, object keeper):
    cdef AsyncResult job
    cdef ForeignDone done = None
    cdef uint64_t submitted
    cdef bint is_future = type(result) is future_class()
    if not is_future:
        _foreign.check(result)
        is_future = _foreign.is_future(result)
    callbacks = checked_callables(core, callbacks, "callback(result, meta)")
    errbacks = checked_callables(core, errbacks, "errback(exc, meta)")
    admit_foreign(core, tid, result)
    if is_future:
        done = ForeignDone.__new__(ForeignDone)
        submitted = core.submitted
        result.add_done_callback(done)      # may raise: nothing has been counted yet
        if submitted != core.submitted or core.state != RUNNING:
            admit_foreign(core, tid, result)    # code has run meanwhile that is not ours
    job = new_job(core, callbacks, errbacks, meta, keeper)
    job.marks = IS_FOREIGN
    job.payload = result
    job.number = fresh_number(core)
    if tid is None:
        tid = job.number
    job.acknowledge = tid
    job.position = <uint64_t> <void *> result
    core.foreign[tid] = job
    core.foreign_results[job.position] = job
    if done is not None:
        done.job = job
        if done.done:
            foreign_ended(job)
    else:
        core.poller.add(tid, result)
        if core.reaper.waiter != NULL:
            call_reaper(core)       # it has to look by the clock from now on
    return tid


cdef int admit_foreign(Core core, object tid, object result) except -1:
    """Returns when there is a slot, and nothing speaks against it."""
    cdef bint wait
    check_running(core)
    check_unused(core, tid, result)
    wait = no_slot(core, 0)
    while wait:
        wait_for_slot(core, 0, None)
        check_running(core)
        check_unused(core, tid, result)     # may run code that is not ours
        wait = no_room(core, 0)             # else it is our turn, whoever waits behind us
    return 0


cdef int check_unused(Core core, object tid, object result) except -1:
    """In constant time, unless the tid may be one of our own: these have no table."""
    cdef AsyncResult job
    if tid is not None and (tid in core.foreign or is_own_tid(core, tid)):
        raise ValueError(f"tid {tid!r} is in use")
    job = core.foreign_results.get(<uint64_t> <void *> result)
    if job is not None and job.payload is result:
        raise ValueError(f"{result!r} is in the queue already")
    return 0


cdef bint is_own_tid(Core core, object tid) except -1:
    """Of a task of this pool that has not ended."""
    if core.in_flight + core.waiting_callbacks == <uint64_t> len(core.foreign):
        return False
    return find_job(core, tid) is not None or find_in_outbox(core, tid) is not None


cdef void forget_foreign(Core core, AsyncResult job):
    """It has ended."""
    core.foreign.pop(job.acknowledge, None)
    if core.foreign_results.get(job.position) is job:
        del core.foreign_results[job.position]


cdef int foreign_ended(AsyncResult job) except -1:
    if job is not None and job.state == PENDING:    # else on_return was called for it meanwhile
        job.outcome = FOREIGN
        job_collected(job.core, job)
        notify(job.core)
    return 0


cdef int64_t poll_foreign(Core core) except? -2:
    """Looks at the foreign results that cannot notify; ns until the next look, -1: none."""
    if core.foreign and core.poller.polled:
        return core.poller.poll(lambda tid: foreign_ended(core.foreign.get(tid)))
    return -1


cdef int fail_foreign(Core core, reason) except -1:
    """The pool ends before these do."""
    cdef AsyncResult job
    for tid, job in list(core.foreign.items()):
        if job.state == PENDING:
            core.poller.polled.pop(tid, None)
            end_with(core, job, reason)
    return 0
