# Time limits: the clock starts when a worker claims the task, and stands in the
# frame. The supervisor asks (check_limits) and carries the sentences out.

import heapq

cdef object _heappush = heapq.heappush
cdef object _heappop = heapq.heappop
cdef object _heapify = heapq.heapify

cdef enum:
    NEVER_AGAIN_NS = 1000000000000000000    # thirty years


cdef Limits limits_of(object soft, object hard, uint64_t expires):
    """From seconds or None; None if there is no limit at all."""
    cdef Limits limits = Limits.__new__(Limits)
    limits.soft = nanoseconds("soft_timeout", soft)
    limits.hard = nanoseconds("timeout", hard)
    limits.expires = expires
    return limits if limits.soft or limits.hard or limits.expires else None


cdef uint64_t nanoseconds(str name, object seconds) except? UNLIMITED:
    """0 for None."""
    if seconds is None:
        return 0
    cdef double value = seconds
    if not value > 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {seconds!r}")
    return <uint64_t> (min(value, 1e9) * 1e9) or 1


cdef object seconds_or(object seconds, uint64_t otherwise):
    if seconds is not None:
        return seconds
    return otherwise / 1e9 if otherwise else None


cdef uint64_t expires_at(object expires) except? UNLIMITED:
    """CLOCK_MONOTONIC ns, from seconds from now or a datetime; 0 for None."""
    if expires is None:
        return 0
    if hasattr(expires, "timestamp"):
        expires = expires.timestamp() - time.time()
    cdef double seconds = expires
    if seconds != seconds:
        raise ValueError("expires must be a number of seconds or a datetime")
    return <uint64_t> max(1, <int64_t> cp_now() + <int64_t> (min(seconds, 1e9) * 1e9))


cdef int limits_begin(Core core, AsyncResult job) except -1:
    """The job is in flight from now on; the supervisor has to look in time."""
    cdef Limits limits = job.limits
    cdef uint64_t shortest = min(limits.soft or UNLIMITED, limits.hard or UNLIMITED)
    cdef uint64_t due = UNLIMITED
    if shortest != UNLIMITED:
        core.deadlines.limited += 1
        core.deadlines.shortest = min(core.deadlines.shortest, shortest)
        due = cp_now() + shortest
    if limits.expires:
        due = min(due, limits.expires)
        _heappush(core.deadlines.expiring, (limits.expires, job.number, job))
    if due < core.deadlines.next_check:
        core.deadlines.next_check = due
        attention(core)
    return 0


cdef void limits_end(Core core, AsyncResult job) noexcept:
    if job.limits.soft or job.limits.hard:
        core.deadlines.limited -= 1
        if core.deadlines.limited == 0:
            core.deadlines.shortest = UNLIMITED


cdef object check_limits(Core core):
    cdef Channel channel
    cdef uint64_t now, next_check
    collect(core, False)
    now = cp_now()
    next_check = expire(core, now)
    if core.deadlines.limited:
        # whatever has not started yet
        next_check = min(next_check, now + core.deadlines.shortest)
        for channel in core.table.channels:
            next_check = min(next_check, check_running_task(core, channel, now))
    core.deadlines.next_check = next_check
    bury(core)
    notify(core)
    return None if next_check == UNLIMITED else max(0, <int64_t> (next_check - now)) / 1e9


cdef uint64_t check_running_task(Core core, Channel channel, uint64_t now) except? UNLIMITED:
    """When the task that the worker runs has to be looked at again."""
    cdef AsyncResult job = journal_first(channel)
    cdef uint64_t start, when = UNLIMITED
    cdef Limits limits
    cdef bint again
    if job is None or job.limits is None or job.state != PENDING:
        return UNLIMITED
    limits = job.limits
    if cp_observe(&frame_of(job).claim) != cp_claim(job.number, CP_CLAIMED):
        return UNLIMITED
    start = cp_peek(&frame_of(job).start)   # written before the claim
    if limits.hard:
        if now >= start + limits.hard:
            if doom(core, job, (
                    _errors.TimeLimitExceeded, {"timeout": limits.hard / 1e9, "pid": channel.pid})):
                core.sentences.append((channel, "hard_limit", job_record(job), 0, None))
            return UNLIMITED
        when = start + limits.hard
    if limits.soft:
        again = cp_peek(&channel.header.soft_tid) == job.number
        if not again:
            channel.soft_next = start + limits.soft
        if now >= channel.soft_next:
            cp_publish(&channel.header.soft_tid, job.number)
            channel.soft_next = now + core.deadlines.soft_again
            core.sentences.append(
                (channel, "soft_limit_again" if again else "soft_limit", job_record(job), 0, None))
        when = min(when, channel.soft_next)
    return when


cdef uint64_t expire(Core core, uint64_t now) except? UNLIMITED:
    """Ends the tasks that should have started by now; when the next one expires."""
    cdef AsyncResult job
    if <uint64_t> len(core.deadlines.expiring) > 2 * core.in_flight + 1000:
        # most of them ended in time
        core.deadlines.expiring = [
            entry for entry in core.deadlines.expiring if (<AsyncResult> entry[2]).state == PENDING]
        _heapify(core.deadlines.expiring)
    while core.deadlines.expiring:
        when, _, job = core.deadlines.expiring[0]
        if when > now and job.state == PENDING:
            return when
        _heappop(core.deadlines.expiring)
        if job.state == PENDING:
            cancel(job, _errors.TaskExpired, {})
    return UNLIMITED
