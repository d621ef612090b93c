# Jobs by tid: for on_return and add, which take any.

cdef AsyncResult find_job(Core core, tid):
    cdef Channel channel
    cdef PyObject *at
    cdef uint64_t at_place, number
    if not isinstance(tid, int) or not 0 < tid <= core.last_number:
        return None
    number = int(tid)       # from here on no user code runs
    for channel in core.table.channels:
        at_place = UNLIMITED
        at = journal_before(channel, &at_place)
        while at != NULL:
            if (<AsyncResult> at).number == number and (<AsyncResult> at).state == PENDING:
                return <AsyncResult> at
            at = journal_before(channel, &at_place)
    at = core.backlog.jobs.first
    while at != NULL:
        if (<AsyncResult> at).number == number:
            return <AsyncResult> at
        at = (<AsyncResult> at).next
    return None


cdef list pending_jobs(Core core):
    cdef list jobs = []
    cdef Channel channel
    cdef PyObject *at
    cdef uint64_t at_place
    for channel in core.table.channels:
        at_place = UNLIMITED
        at = journal_before(channel, &at_place)
        while at != NULL:
            if (<AsyncResult> at).state == PENDING:
                jobs.append(<AsyncResult> at)
            at = journal_before(channel, &at_place)
    at = core.backlog.jobs.first
    while at != NULL:
        jobs.append(<AsyncResult> at)
        at = (<AsyncResult> at).next
    return jobs


cdef bint take_out(Core core, tid, ret_val) except -1:
    cdef AsyncResult job = core.delivering
    if job is not None and job_tid(job) == tid and inside_dispatch(core):
        if job.marks & RETURNED:
            return False
        job.marks |= RETURNED
        return True
    job = core.foreign.get(tid)
    if job is not None and job.state == PENDING:
        core.poller.polled.pop(tid, None)
    else:
        job = find_job(core, tid)
        if job is None:
            return take_from_outbox(core, tid)
        withdraw(core, job)
    drop_arguments(core, job)
    if job.limits is not None:
        limits_end(core, job)
    if isinstance(ret_val, _einfo.ExceptionInfo):
        job.payload, job.outcome = ret_val.exception, EXCEPTION
    else:
        job.payload, job.outcome = ret_val, VALUE
    count_outcome(core, job, job.outcome == VALUE)
    core.in_flight -= 1
    core.collected += 1
    tell_window(job)
    job_finished(core, job)
    notify(core)
    return True


cdef AsyncResult find_in_outbox(Core core, tid):
    """The collected job with this tid whose callbacks have not begun, or None."""
    cdef AsyncResult job
    cdef PyObject *at = core.outbox.first
    cdef list jobs = []
    while at != NULL:
        jobs.append(<AsyncResult> at)
        at = (<AsyncResult> at).next
    for job in jobs:
        if job_tid(job) == tid and job.state == COLLECTED and job.marks & QUEUED:
            return job
    return None


cdef bint take_from_outbox(Core core, tid) except -1:
    cdef AsyncResult job = find_in_outbox(core, tid)
    if job is None:
        return False
    job.marks &= ~<uint16_t> QUEUED
    jobs_remove(&core.outbox, job)
    core.waiting_callbacks -= 1
    count_outcome(core, job, job.outcome in (RAW_RESULT, FOREIGN, VALUE))
    job_finished(core, job)
    notify(core)
    return True
