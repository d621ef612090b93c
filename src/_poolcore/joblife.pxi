# A job's life in the parent: made, claimed, collected, finished. Whoever ends a task,
# in whatever way, does it by these.

cdef inline AsyncResult new_job(Core core, object callbacks, object errbacks, object meta, object keeper):
    cdef AsyncResult job = AsyncResult.__new__(AsyncResult)
    # While in flight we hold it, so the cycle collector need not look: a million
    # jobs in flight would cost twice as much each.
    PyObject_GC_UnTrack(<PyObject *> job)
    if CP_DEBUG:
        debug_alive["jobs"] += 1
    job.core = core
    job.callbacks = callbacks
    job.errbacks = errbacks
    job.own_meta = meta
    if core.in_flight + core.waiting_callbacks == 0:
        core.keeper = keeper
    core.in_flight += 1
    core.submitted += 1
    if CP_UNLIKELY(core.wake_at_first_task) and core.in_flight == 1:
        attention(core)
    if CP_UNLIKELY(core.reaper.sleeps):
        core.reaper.sleeps = False
        cp_bell_ring(core.reaper.bell[1])
    return job


cdef inline uint64_t fresh_number(Core core):
    """A tid that nobody has had; a foreign job may have been given one of ours."""
    core.last_number += 1
    if core.foreign:
        while core.last_number in core.foreign:
            core.last_number += 1
    return core.last_number


cdef object job_tid(AsyncResult job):
    return job.acknowledge if job.marks & IS_FOREIGN else job.number


cdef inline void job_claimed(Core core, AsyncResult job, uint64_t accepted) noexcept:
    """A worker has claimed the task; on_acknowledge is due if it was asked for."""
    if job.flags & CP_WANT_ACK:
        job.flags &= ~<uint16_t> CP_WANT_ACK
        job.marks |= ACK_DUE
        job.pid = <int> job.channel.pid
        job.accepted = accepted


cdef void drop_arguments(Core core, AsyncResult job) noexcept:
    """The pickled arguments are needed no more, unless a worker still looks at them."""
    if job.payload is None or job.marks & (IS_FOREIGN | DOOMED):
        return
    core.bytes_in_flight -= payload_bytes(job.payload)
    job.flags &= ~<uint16_t> CP_IN_ARENA
    job.payload = None


cdef inline void parcel_unread(AsyncResult job) noexcept:
    """The worker that was given the task has not looked at its arguments, and never will."""
    if job.flags & CP_IN_ARENA:
        (<Parcel> job.payload).extent.lent_to = NULL


cdef void job_collected(Core core, AsyncResult job) noexcept:
    """The outcome is here. The caller holds a reference."""
    cdef bint success = job.outcome == RAW_RESULT or job.outcome == FOREIGN
    core.in_flight -= 1
    core.collected += 1
    if job.limits is not None:
        limits_end(core, job)
    if not success:
        count_outcome(core, job, False)
        if job.outcome == RAW_ERROR or job.outcome == EXCEPTION or job.outcome == NO_MEMORY:
            mark_unseen(core, job)
    # a result may fail yet, when it is unpickled: it is counted when that is known, or now
    # if nobody here will look at it
    if job.marks & OF_FUTURE:
        if future_ended(job):
            job.state = COLLECTED
            core.waiting_callbacks += 1
            core.untold += 1
            if not future_withholds(job):
                jobs_append(&core.due, job)
            return
    elif not job.marks & IN_WINDOW and (
            core.overridden or job.errbacks is not None and not (success and job.payload is None)
            or success and job.callbacks is not None or job.marks & (ACK_DUE | IS_FOREIGN)):
        job.state = COLLECTED
        core.waiting_callbacks += 1
        enqueue(core, job)
        return
    tell_window(job)
    job.state = FINISHED
    core.reaped += 1
    count_outcome(core, job, success)
    PyObject_GC_Track(<PyObject *> job)
    bury_later(core, job)       # what it holds is let go when the state is whole


cdef inline void tell_window(AsyncResult job) noexcept:
    """The reference to it is dropped by forget: it may be the last one."""
    if job.marks & IN_WINDOW:
        window_arrived(<Window> job.callbacks, job)


cdef inline void count_outcome(Core core, AsyncResult job, bint success) noexcept:
    """Once a job; counters never go back."""
    if job.marks & COUNTED:
        return
    job.marks |= COUNTED
    if success:
        core.succeeded += 1
    else:
        core.failed += 1


cdef int end_with(Core core, AsyncResult job, reason) except -1:
    """Ends a job that is in no list and no journal with (class, arguments); the
    class gets the tid, too."""
    drop_arguments(core, job)
    job.channel = None
    job.outcome = REASON
    job.payload = (reason[0], {**reason[1], "tid": job_tid(job)})
    counted_as = getattr(reason[0], "_counted_as", "")
    if counted_as == "lost":
        core.lost += 1
    elif counted_as == "cancelled":
        core.cancelled += 1
    elif counted_as == "expired":
        core.expired += 1
    job_collected(core, job)
    return 0


cdef inline void enqueue(Core core, AsyncResult job) noexcept:
    """Into the outbox, if it is not there (with its acknowledgement)."""
    if not job.marks & QUEUED:
        job.marks |= QUEUED
        jobs_append(&core.outbox, job)


cdef inline void bury_later(Core core, AsyncResult job) noexcept:
    """Of one that has not finished, others see to the rest: its callbacks may run just now."""
    if job.state == FINISHED:
        jobs_append(&core.grave, job)


cdef void bury(Core core) noexcept:
    """Lets go of what finished in collect, now that the state is whole: this may
    run destructors of the user's objects."""
    cdef AsyncResult job
    while core.grave.first != NULL:
        job = <AsyncResult> core.grave.first
        jobs_remove(&core.grave, job)
        forget(job)
        job = None              # its end may let other threads in: before the next one is looked at
    let_keeper_go(core)


cdef inline void job_finished(Core core, AsyncResult job) noexcept:
    """Its callbacks have returned. May run destructors of the user's objects."""
    if job.marks & IS_FOREIGN:
        forget_foreign(core, job)
    job.state = FINISHED
    core.reaped += 1
    PyObject_GC_Track(<PyObject *> job)
    forget(job)


cdef inline void forget(AsyncResult job) noexcept:
    """What a finished job needs no more."""
    job.callbacks = None
    job.errbacks = None
    job.acknowledge = None


cdef inline void let_keeper_go(Core core) noexcept:
    if core.in_flight + core.waiting_callbacks == 0:
        core.keeper = None
