# Results of other pools in our queue (TaskPool.add): they take part in the limit
# and in dispatch. celery_pool/foreign.py watches those that cannot notify.

cdef object add_foreign(Core core, object result, object callbacks, object errbacks,
                        object tid, object meta, object keeper):
    cdef AsyncResult job
    _foreign.check(result)
    callbacks = checked_callables(callbacks, "callbacks")
    errbacks = checked_callables(errbacks, "errbacks")
    check_running(core)
    check_unused(core, tid, result)
    if no_slot(core, 0):
        wait_for_slot(core, 0, None)
        check_running(core)
        check_unused(core, tid, result)
    job = new_job(core, callbacks, errbacks, meta, keeper)
    job.marks = IS_FOREIGN
    job.payload = result
    job.number = fresh_number(core)
    if tid is None:
        tid = job.number
    job.acknowledge = tid
    core.foreign_jobs[tid] = job
    if _foreign.is_future(result):
        try:
            result.add_done_callback(lambda future: foreign_ended(core, tid, job))
        except BaseException:
            if core.foreign_jobs.pop(tid, None) is job:
                core.in_flight -= 1
                core.submitted -= 1
                PyObject_GC_Track(<PyObject *> job)
                let_keeper_go(core)
                notify(core)
            raise
    else:
        core.poller.add(tid, result)
        if core.reaper.waiter != NULL:
            call_reaper(core)       # it has to look by the clock from now on
    return tid


cdef int check_unused(Core core, object tid, object result) except -1:
    cdef AsyncResult job
    if tid is not None and (tid in core.foreign_jobs or find_job(core, tid) is not None
                            or find_in_outbox(core, tid) is not None):
        raise ValueError(f"tid {tid!r} is in use")
    for job in core.foreign_jobs.values():
        if job.payload is result:
            raise ValueError(f"{result!r} is in the queue already")
    cdef PyObject *at = core.outbox.first
    while at != NULL:
        job = <AsyncResult> at
        if job.marks & IS_FOREIGN and job.payload is result:
            raise ValueError(f"{result!r} is in the queue already")
        at = job.next
    return 0


cdef int foreign_ended(Core core, object tid, AsyncResult job) except -1:
    if job is not None and core.foreign_jobs.get(tid) is job:  # else on_return was called for it meanwhile
        del core.foreign_jobs[tid]
        job.outcome = FOREIGN
        job_collected(core, job)
        notify(core)
    return 0


cdef int64_t poll_foreign(Core core) except? -2:
    """Looks at the foreign results that cannot notify; ns until the next look, -1: none."""
    if core.foreign_jobs and core.poller.polled:
        return core.poller.poll(lambda tid: foreign_ended(core, tid, core.foreign_jobs.get(tid)))
    return -1


cdef int fail_foreign(Core core, reason) except -1:
    """The pool ends before these do."""
    for tid in list(core.foreign_jobs):
        job = core.foreign_jobs.pop(tid, None)
        core.poller.polled.pop(tid, None)
        if job is not None:
            end_with(core, job, reason)
    return 0
