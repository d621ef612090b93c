# What an event loop does once a task, as long as there is a slot for it. All else is Python
# (celery_pool/aio).

cdef class AwaitedBase:
    """Compiled part of :class:`celery_pool.aio.AsyncTaskPool`: what runs once a task."""

    def _submit_now(self, fn, args, kwargs):
        """The job of a task whose outcome an asyncio future gets, its meta; None: not now,
        for want of a slot or of room for its arguments, or since it is not the loop that asks."""
        cdef Core core = self._pool.core
        if not may_submit(self):
            return None
        if core.loop.listens:
            self._looking.wake()
        try:
            return submit(core, fn, args, kwargs or None, succeed, fail, None, self._loop.create_future(),
                          self._pool, _at_once)
        except _errors.PoolFull:
            return None


cdef bint may_submit(AwaitedBase pool) except -1:
    """Whether it is the loop that asks, there is a slot, and nobody waits for it."""
    cdef Core core = pool._pool.core
    return (pool._loop is not None and not core.loop.crowded and not no_slot(core, 0) and
            runs_here(pool._loop))


cdef object _running_loop = None        # asyncio's function, once it is wanted

cdef bint runs_here(object loop) except -1:
    """Whether the calling thread runs the event loop."""
    global _running_loop
    thread = getattr(loop, "_thread_id", loop)
    if thread is not loop:              # asyncio's own; on Python 3.11 to ask is a system call
        return thread is not None and <unsigned long> thread == PyThread_get_thread_ident()
    if _running_loop is None:
        from asyncio import _get_running_loop
        _running_loop = _get_running_loop
    return _running_loop() is loop


def succeed(value, future):
    """Callback: the outcome of an asyncio future that nobody has cancelled."""
    if not future.done():
        future.set_result(value)


def fail(error, future):
    """Errback: the same."""
    if not future.done():
        future.set_exception(_remote.not_stopping(error))   # it takes no StopIteration
