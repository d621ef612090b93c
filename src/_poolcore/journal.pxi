# The journal: the parent's private record of what one worker was given, in the order
# of the frames. Nobody else sees its head and tail. It trusts nothing that a worker
# can write, and is used under the GIL by whoever collects, places or recovers.

cdef int journal_begin(Channel channel, uint64_t ring_size) except -1:
    # room for every frame of both rings: an entry outlives its frame until
    # the completion is collected
    channel.journal_mask = 2 * ring_size // CP_LINE - 1
    channel.journal = <Entry *> PyMem_Calloc(channel.journal_mask + 1, sizeof(Entry))
    if channel.journal == NULL:
        raise MemoryError()
    return 0


cdef void journal_end(Channel channel) noexcept:
    while channel.journal_head != channel.journal_tail:
        Py_XDECREF(channel.journal[channel.journal_head & channel.journal_mask].job)
        channel.journal_head += 1
    PyMem_Free(channel.journal)


cdef inline AsyncResult journal_first(Channel channel):
    """The job whose completion comes next; None if the worker owes none."""
    cdef PyObject *job
    while channel.journal_head != channel.journal_tail:
        job = channel.journal[channel.journal_head & channel.journal_mask].job
        if job != NULL:
            return <AsyncResult> job
        channel.journal_head += 1
    return None


cdef inline void journal_pop(Channel channel) noexcept:
    """Takes the first entry, whose reference is now the caller's."""
    channel.journal_head += 1
    channel.load -= 1


cdef inline bint journal_full(Channel channel) noexcept:
    if CP_UNLIKELY(channel.journal_tail - channel.journal_head > channel.journal_mask):
        journal_first(channel)      # drops what was taken back at its head
        return channel.journal_tail - channel.journal_head > channel.journal_mask
    return False


cdef inline void journal_push(Channel channel, AsyncResult job) noexcept:
    """The job's frame is the last one of the ring. Not if the journal is full."""
    cdef Entry *entry = &channel.journal[channel.journal_tail & channel.journal_mask]
    Py_INCREF(job)
    entry.job = <PyObject *> job
    entry.position = job.position
    channel.journal_tail += 1
    channel.load += 1
    channel.given += 1


cdef inline void journal_prefetch(Channel channel) noexcept:
    """A job whose turn comes soon."""
    prefetch_job(channel.journal[(channel.journal_head + 4) & channel.journal_mask].job)


cdef void journal_remove(Channel channel, AsyncResult job) noexcept:
    """Takes a job out that was taken back: no completion will come. The caller holds a
    reference of its own."""
    cdef uint64_t low = channel.journal_head, high = channel.journal_tail, middle
    while low < high:
        middle = (low + high) // 2
        if channel.journal[middle & channel.journal_mask].position < job.position:
            low = middle + 1
        else:
            high = middle
    channel.journal[low & channel.journal_mask].job = NULL
    channel.load -= 1
    channel.given -= 1
    Py_DECREF(job)


cdef inline PyObject *journal_before(Channel channel, uint64_t *at) noexcept:
    """The last job before *at (UNLIMITED: of all), borrowed, or NULL; *at becomes its
    place. Jobs may be removed meanwhile, by journal_remove only."""
    cdef PyObject *job
    at[0] = min(at[0], channel.journal_tail)
    while at[0] != channel.journal_head:
        at[0] -= 1
        job = channel.journal[at[0] & channel.journal_mask].job
        if job != NULL:
            return job
    return NULL
