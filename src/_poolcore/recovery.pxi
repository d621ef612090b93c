# What becomes of tasks whose worker is gone, and of those that end otherwise than
# by a completion. Called by the supervisor; the order is fixed: the worker is
# certainly dead, its completions are drained to empty, then the journal is walked.

cdef int recover(Core core, Channel channel, reason, bint requeue) except -1:
    cdef AsyncResult job
    cdef Jobs again
    cdef PyObject *owned
    cdef uint64_t claim
    cdef int ended = 0
    memset(&again, 0, sizeof(again))
    collect_channel(core, channel)
    channel.open = channel.spare = False
    set_channels(core, [c for c in core.table.channels if c is not channel])
    open_spare(core)
    while True:
        job = journal_first(channel)
        if job is None:
            break
        journal_pop(channel)
        if job.state != PENDING:                # on_return was called for it meanwhile
            bury_later(core, job)
        elif requeue and frame_stands(job) and cp_claim_revoke(frame_of(job), job.number):
            parcel_unread(job)
            job.channel = None
            jobs_append(&again, job)
        else:
            claim = cp_peek(&frame_of(job).claim) if frame_stands(job) else 0
            if cp_claim_tid(claim) == job.number and cp_claim_state(claim) in (CP_CLAIMED, CP_DONE, CP_KILLED):
                job_claimed(core, job, cp_peek(&frame_of(job).start))
                job.pid = <int> channel.pid
            ended += 1
            if job.marks & DOOMED:
                end_with(core, job, doom_of(job, channel))
            else:
                end_with(core, job, reason)
        Py_DECREF(job)
    arena_reader_gone(core.arguments, <void *> channel)
    channel.core = NULL
    # in front of the backlog, in their order
    while again.last != NULL:
        job = <AsyncResult> again.last
        jobs_remove(&again, job)
        backlog_prepend(core, job)
    refill(core)
    bury(core)
    notify(core)
    return ended


cdef tuple doom_of(AsyncResult job, Channel channel):
    if channel.stack is None:
        return job.payload
    reason, arguments = job.payload
    return reason, (*arguments, channel.stack)


cdef int fail_rest(Core core, reason) except -1:
    cdef AsyncResult job
    while core.backlog.first != NULL:
        job = <AsyncResult> core.backlog.first
        backlog_remove(core, job)
        end_with(core, job, reason)
    fail_foreign(core, reason)
    bury(core)
    notify(core)
    return 0


cdef int end_with(Core core, AsyncResult job, reason) except -1:
    """Ends a job that is in no list and no journal with (class, arguments); the
    class gets the tid, too."""
    drop_arguments(core, job)
    job.channel = None
    job.outcome = REASON
    job.payload = (reason[0], (*reason[1], job_tid(job)))
    if issubclass(reason[0], _errors.WorkerLostError):
        core.lost += 1
    elif issubclass(reason[0], _errors.TaskCancelled):
        core.cancelled += 1
    elif issubclass(reason[0], _errors.TaskExpired):
        core.expired += 1
    job_collected(core, job)
    return 0


cdef bint withdraw(Core core, AsyncResult job) noexcept:
    """Takes a task that has not started back from the backlog or its worker.
    False: a worker has claimed it. The caller holds a reference."""
    cdef Channel channel = job.channel
    cdef uint64_t low, high, middle
    if job.marks & BACKLOGGED:
        backlog_remove(core, job)
        return True
    if channel is None or not frame_stands(job) or not cp_claim_revoke(frame_of(job), job.number):
        return False
    low, high = channel.journal_head, channel.journal_tail
    while low < high:
        middle = (low + high) // 2
        if channel.journal[middle & channel.journal_mask].position < job.position:
            low = middle + 1
        else:
            high = middle
    channel.journal[low & channel.journal_mask].job = NULL
    channel.load -= 1
    channel.given -= 1
    parcel_unread(job)
    job.channel = None
    Py_DECREF(job)
    return True


cdef AsyncResult find_job(Core core, tid):
    cdef Channel channel
    cdef PyObject *at
    cdef uint64_t i, number
    if not isinstance(tid, int) or not 0 < tid <= core.last_number:
        return None
    number = int(tid)       # from here on no user code runs
    for channel in core.table.channels:
        for i in range(channel.journal_head, channel.journal_tail):
            at = channel.journal[i & channel.journal_mask].job
            if at != NULL and (<AsyncResult> at).number == number and (<AsyncResult> at).state == PENDING:
                return <AsyncResult> at
    at = core.backlog.first
    while at != NULL:
        if (<AsyncResult> at).number == number:
            return <AsyncResult> at
        at = (<AsyncResult> at).next
    return None


cdef list pending_jobs(Core core):
    cdef list jobs = []
    cdef Channel channel
    cdef PyObject *at
    cdef uint64_t i
    for channel in core.table.channels:
        for i in range(channel.journal_head, channel.journal_tail):
            at = channel.journal[i & channel.journal_mask].job
            if at != NULL and (<AsyncResult> at).state == PENDING:
                jobs.append(<AsyncResult> at)
    at = core.backlog.first
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
    job = core.foreign_jobs.pop(tid, None)
    if job is not None:
        core.poller.polled.pop(tid, None)
    else:
        job = find_job(core, tid)
        if job is None:
            return take_undelivered(core, tid)
        withdraw(core, job)
    drop_arguments(core, job)
    if job.limits is not None:
        limits_end(core, job)
    if isinstance(ret_val, _einfo.ExceptionInfo):
        job.payload, job.outcome = ret_val.exception, EXCEPTION
        core.failed += 1
    else:
        job.payload, job.outcome = ret_val, VALUE
        core.succeeded += 1
    core.in_flight -= 1
    core.collected += 1
    job_finished(core, job)
    notify(core)
    return True


cdef AsyncResult find_undelivered(Core core, tid):
    """The collected job with this tid whose callbacks have not begun, or None."""
    cdef AsyncResult job
    cdef PyObject *at = core.undelivered.first
    cdef list jobs = []
    while at != NULL:
        jobs.append(<AsyncResult> at)
        at = (<AsyncResult> at).next
    for job in jobs:
        if job_tid(job) == tid and job.state == COLLECTED and job.marks & QUEUED:
            return job
    return None


cdef bint take_undelivered(Core core, tid) except -1:
    cdef AsyncResult job = find_undelivered(core, tid)
    if job is None:
        return False
    job.marks &= ~<uint8_t> QUEUED
    jobs_remove(&core.undelivered, job)
    core.waiting_callbacks -= 1
    job_finished(core, job)
    notify(core)
    return True
