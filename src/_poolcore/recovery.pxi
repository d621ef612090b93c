# What becomes of tasks whose worker is gone. By the supervisor's thread alone; the
# order is fixed: the worker is certainly dead, its completions are drained to empty,
# then the journal is walked.

cdef int recover(Core core, Channel channel, reason, bint requeue) except -1:
    cdef AsyncResult job
    cdef Jobs again
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
        if job.state != PENDING:                # it has been reported, or on_return was called for it
            job.channel = None
            bury_later(core, job)
        elif requeue and frame_stands(job) and cp_claim_revoke(frame_of(job), job.number):
            parcel_unread(job)
            job.channel = None
            jobs_append(&again, job)
        else:
            if was_claimed(channel, job):
                job_claimed(core, job, cp_peek(&frame_of(job).start))
                job.pid = <int> channel.pid
            ended += 1
            if job.marks & DOOMED:
                end_with(core, job, doom_of(job, channel))
            else:
                end_with(core, job, reason)
        Py_DECREF(job)
    arena_reader_gone(core.arguments, <void *> channel)
    inherit_tallies(core, channel)
    channel.core = NULL
    # in front of the backlog, in their order
    while again.last != NULL:
        job = <AsyncResult> again.last
        jobs_remove(&again, job)
        backlog_prepend(core, job)
    refill(core)
    in_debug_builds(core)
    bury(core)
    notify(core)
    return ended


cdef int report_doomed(Core core, Channel channel) except -1:
    cdef AsyncResult job = journal_first(channel)
    if job is not None and job.state == PENDING and job.marks & DOOMED:
        end_doomed(core, job, channel)
        bury(core)
        notify(core)
    return 0


cdef int end_doomed(Core core, AsyncResult job, Channel channel) except -1:
    job_claimed(core, job, cp_peek(&frame_of(job).start))
    job.pid = <int> channel.pid
    end_with(core, job, doom_of(job, channel))
    job.channel = channel       # it stands in the journal until the worker is dead
    return 0


cdef bint was_claimed(Channel channel, AsyncResult job) noexcept:
    """Whether the worker has claimed the job in its journal, by the frame if that still stands."""
    cdef cp_producer *ring = &channel.submission
    cdef uint64_t claim
    if not cp_producer_holds(ring, job.position):
        return False
    claim = cp_peek(&cp_ring_at(ring.base, ring.size, job.position).claim)
    return cp_claim_tid(claim) == job.number and cp_claim_state(claim) in (CP_CLAIMED, CP_DONE, CP_KILLED)


cdef tuple task_of(Channel channel):
    cdef AsyncResult job = journal_first(channel)
    return None if job is None or not was_claimed(channel, job) else job_record(job)


cdef tuple job_record(AsyncResult job):
    """(tid, target), for those who are told what became of it."""
    return job_tid(job), None if job.function is None else job.function.target


cdef tuple doom_of(AsyncResult job, Channel channel):
    if channel.stack is None:
        return job.payload
    kind, details = job.payload
    return kind, {**details, "stack": channel.stack}


cdef int fail_rest(Core core, reason) except -1:
    cdef AsyncResult job
    while core.backlog.jobs.first != NULL:
        job = <AsyncResult> core.backlog.jobs.first
        backlog_remove(core, job)
        end_with(core, job, reason)
    fail_foreign(core, reason)
    bury(core)
    notify(core)
    return 0
