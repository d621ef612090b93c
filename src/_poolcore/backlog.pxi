# The backlog: jobs that no ring has room for yet.
#
# With a million of them a job has left the caches when its turn comes, so each
# knows one that stands some places later and fetches it. Which that is can be told
# from the length of the backlog, as long as jobs come at its end and go from its
# front.

cdef inline void backlog_append(Core core, AsyncResult job) noexcept:
    cdef PyObject **before = &core.backlog.lately[core.backlog.appended % PREFETCH_AHEAD]
    if core.backlog.jobs.count >= PREFETCH_AHEAD and before[0] != NULL:     # else it may be gone
        (<AsyncResult> before[0]).ahead = <PyObject *> job
    before[0] = <PyObject *> job
    core.backlog.appended += 1
    job.marks |= BACKLOGGED
    jobs_append(&core.backlog.jobs, job)


cdef inline void backlog_prepend(Core core, AsyncResult job) noexcept:
    """For a job that comes back from a worker."""
    forget_lately(core)
    job.marks |= BACKLOGGED
    jobs_prepend(&core.backlog.jobs, job)


cdef inline void backlog_remove(Core core, AsyncResult job) noexcept:
    """The caller holds a reference of its own."""
    if <PyObject *> job != core.backlog.jobs.first:
        forget_lately(core)
    job.marks &= ~<uint16_t> BACKLOGGED
    jobs_remove(&core.backlog.jobs, job)


cdef inline void forget_lately(Core core) noexcept:
    """The length of the backlog does not tell any more who stands in it."""
    memset(core.backlog.lately, 0, sizeof(core.backlog.lately))


cdef inline void prefetch_from(AsyncResult job) noexcept:
    """The first of the backlog fetches a later one, and the arguments of one that is
    near enough to have been fetched itself."""
    cdef PyObject *near = job.next
    cdef int i
    prefetch_job(job.ahead)
    for i in range(PREFETCH_AHEAD // 2):
        if near == NULL:
            return
        near = (<AsyncResult> near).next
    if near != NULL:
        CP_PREFETCH(<PyObject *> (<AsyncResult> near).payload)
