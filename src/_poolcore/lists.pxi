# Queues of jobs, linked through the jobs themselves; each holds a reference.

cdef inline void prefetch_job(PyObject *job) noexcept:
    """With a million in flight a job has long left the caches when its turn comes."""
    if job != NULL:
        CP_PREFETCH(job)
        CP_PREFETCH(<char *> job + CP_LINE)
        CP_PREFETCH(<char *> job + 2 * CP_LINE)


cdef inline void jobs_append(Jobs *jobs, AsyncResult job) noexcept:
    Py_INCREF(job)
    job.prev = jobs.last
    job.next = NULL
    if jobs.last != NULL:
        (<AsyncResult> jobs.last).next = <PyObject *> job
    else:
        jobs.first = <PyObject *> job
    jobs.last = <PyObject *> job
    jobs.count += 1


cdef inline void jobs_prepend(Jobs *jobs, AsyncResult job) noexcept:
    Py_INCREF(job)
    job.next = jobs.first
    job.prev = NULL
    if jobs.first != NULL:
        (<AsyncResult> jobs.first).prev = <PyObject *> job
    else:
        jobs.last = <PyObject *> job
    jobs.first = <PyObject *> job
    jobs.count += 1


cdef inline void jobs_remove(Jobs *jobs, AsyncResult job) noexcept:
    """The caller holds a reference of its own."""
    if job.prev != NULL:
        (<AsyncResult> job.prev).next = job.next
    else:
        jobs.first = job.next
    if job.next != NULL:
        (<AsyncResult> job.next).prev = job.prev
    else:
        jobs.last = job.prev
    job.next = job.prev = NULL
    jobs.count -= 1
    Py_DECREF(job)
