# Ending single tasks: all of it by the claim word.

cdef bint cancel(AsyncResult job, object kind, dict details) except -1:
    """Ends a task that has not started. False: it has."""
    cdef Core core = job.core
    if job.state != PENDING or not withdraw(core, job):
        return False
    end_with(core, job, (kind, details))
    bury(core)
    notify(core)
    return True


cdef bint doom(Core core, AsyncResult job, tuple reason) except -1:
    """Decides that a running task ends with `reason` (class, arguments by name,
    without the tid). False: it is not running. The caller kills the worker; recovery does the
    rest."""
    if (job.state != PENDING or job.channel is None or job.marks & DOOMED
            or not frame_stands(job) or not cp_claim_kill(frame_of(job), job.number)):
        return False
    drop_arguments(core, job)
    job.payload = reason
    job.marks |= DOOMED
    job.channel.open = False
    take_back(core, job.channel, 0xffffffff)
    refill(core)
    return True


cdef double grace_of(object seconds) except? -1:
    cdef double grace = seconds
    if not 0 <= grace:
        raise ValueError(f"grace must be 0 seconds or more, not {seconds!r}")
    return grace


cdef bint terminate(AsyncResult job, object signum, object grace) except -1:
    cdef Core core = job.core
    cdef Channel channel
    if cancel(job, _errors.TaskTerminated, {"pid": None, "signum": int(signum)}):
        return True
    channel = job.channel
    if channel is None or not doom(core, job, (
            _errors.TaskTerminated, {"pid": channel.pid, "signum": int(signum)})):
        return False
    cp_publish(&channel.header.soft_tid, job.number)    # whose it is if it is the soft limit's signal
    core.sentences.append((channel, "terminated", job_record(job), int(signum), grace))
    attention(core)
    return True
