# The end of everything in flight is decided; the caller kills the workers.

cdef tuple give_up_pending(Core core):
    cdef Channel channel
    cdef AsyncResult job
    cdef PyObject *at
    cdef uint64_t patience = cp_now() + 10 * TICK_NS
    cdef list waiting = [], running = []
    for channel in core.table.channels:
        channel.open = channel.spare = False
        take_back(core, channel, 0xffffffff)
    for channel in core.table.channels:
        while True:
            collect(core, True)
            job = journal_first(channel)
            if job is None:
                break
            if job.marks & DOOMED or doom(core, job, (_errors.PoolTerminated, {"message": "the pool was drained"})):
                running.append(job_meta(job))
                break
            if cp_now() > patience:     # done, but not published: it is stopped right there
                running.append(job_meta(job))
                break
    at = core.backlog.jobs.first
    while at != NULL:
        waiting.append(job_meta(<AsyncResult> at))
        at = (<AsyncResult> at).next
    for job in core.foreign.values():
        if job.state == PENDING:
            running.append(job_meta(job))
    return waiting, running
