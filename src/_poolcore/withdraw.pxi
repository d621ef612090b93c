# Taking tasks back that have not started, by the claim word.

cdef bint withdraw(Core core, AsyncResult job) noexcept:
    """Takes a task that has not started back from the backlog or its worker.
    False: a worker has claimed it. The caller holds a reference."""
    cdef Channel channel = job.channel
    if job.marks & BACKLOGGED:
        backlog_remove(core, job)
        return True
    if channel is None or not frame_stands(job) or not cp_claim_revoke(frame_of(job), job.number):
        return False
    parcel_unread(job)
    job.channel = None
    journal_remove(channel, job)
    core.imbalanced = True      # the worker may be idle by that, and no completion tells so
    return True


cdef void take_back(Core core, Channel channel, uint32_t most) noexcept:
    """The last `most` tasks of a worker that have not started go to the front of
    the backlog."""
    cdef uint64_t at = UNLIMITED
    cdef PyObject *found
    cdef AsyncResult job
    while most:
        found = journal_before(channel, &at)
        if found == NULL:
            break
        job = <AsyncResult> found
        if job.state != PENDING or not withdraw(core, job):
            break                       # this one runs; those before it are over
        backlog_prepend(core, job)
        most -= 1
    in_debug_builds(core)


cdef int retire(Core core, Channel channel) except -1:
    channel.open = channel.spare = False
    take_back(core, channel, 0xffffffff)
    channel_stop(channel)
    open_spare(core)
    refill(core)
    notify(core)
    return 0
