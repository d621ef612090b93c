# Taking tasks back from a busy worker, for an idle one or because it leaves.

cdef enum:
    LONG_NS = 50000             # a task that has run so long may run much longer
    MANY_QUEUED = 128           # behind so many even short tasks make a wait


cdef void rebalance(Core core) noexcept:
    """Half of what waits at the busiest worker goes elsewhere, if another is idle."""
    cdef Table table = core.table
    cdef Channel channel, busiest = None
    cdef AsyncResult job
    cdef uint64_t start
    cdef uint32_t i, most = 1
    cdef bint idle = False
    core.imbalanced = False
    if core.in_flight <= 1:
        return
    for i in range(table.count):
        channel = <Channel> table.items[i]
        if channel.load == 0:
            idle = idle or channel.open
        elif channel.load > most:
            busiest = channel
            most = channel.load
    if not idle or busiest is None:
        return
    if most < MANY_QUEUED:
        job = journal_first(busiest)
        start = cp_peek(&frame_of(job).start)
        if (cp_observe(&frame_of(job).claim) != cp_claim(job.number, CP_CLAIMED)
                or cp_now() - start < LONG_NS):
            core.imbalanced = True      # look again soon
            return
    take_back(core, busiest, most // 2)
    refill(core)


cdef void take_back(Core core, Channel channel, uint32_t most) noexcept:
    """The last `most` tasks of a worker that have not started go to the front of
    the backlog."""
    cdef uint64_t at = channel.journal_tail
    cdef PyObject *found
    cdef AsyncResult job
    while most and at != channel.journal_head:
        at -= 1
        found = channel.journal[at & channel.journal_mask].job
        if found == NULL:
            continue
        job = <AsyncResult> found
        if job.state != PENDING or not withdraw(core, job):
            break                       # this one runs; those before it are over
        job.marks |= BACKLOGGED
        jobs_prepend(&core.backlog, job)
        most -= 1


cdef int retire(Core core, Channel channel) except -1:
    channel.open = channel.spare = False
    take_back(core, channel, 0xffffffff)
    channel_stop(channel)
    open_spare(core)
    refill(core)
    notify(core)
    return 0


cdef tuple pending_metas(Core core):
    cdef Channel channel
    cdef AsyncResult job
    cdef PyObject *at
    cdef list waiting = [], running = []
    for channel in core.table.channels:
        channel.open = channel.spare = False
        take_back(core, channel, 0xffffffff)
        job = journal_first(channel)
        if job is not None and job.state == PENDING:
            running.append(job_meta(job))
    at = core.backlog.first
    while at != NULL:
        waiting.append(job_meta(<AsyncResult> at))
        at = (<AsyncResult> at).next
    for job in core.foreign_jobs.values():
        running.append(job_meta(job))
    return waiting, running
