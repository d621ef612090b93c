# The members of TaskPool that run once a task. The rest of it is Python
# (celery_pool/taskpool.py).

cdef class TaskPoolBase:
    """Compiled part of :class:`celery_pool.TaskPool`."""

    @property
    def _core(self):
        return self.core

    @_core.setter
    def _core(self, Core core not None):
        self.core = core

    def apply_async(self, target, args=None, kwargs=None, callbacks=None,
                    errbacks=None, on_acknowledge=None, meta=None, *,
                    accept_callback=None, soft_timeout=None, timeout=None, expires=None,
                    block=True, slot_timeout=None):
        """Runs ``target(*args, **kwargs)`` in a worker; returns an AsyncResult.

        When the pool is full, waits for a task to finish and reaps it.

        :param target: a callable. Plain functions and classes are sent to each
            worker once, by name; others are pickled every time.
        :param callbacks: one or several ``callback(result, meta)``, run in the
            parent if the task succeeded.
        :param errbacks: one or several ``errback(exc, meta)``, run if it failed.
        :param on_acknowledge: called without arguments, once, in the parent, when
            a worker has claimed the task, before its callbacks and errbacks, also
            if that worker dies later; never if the task did not start. For
            at-least-once delivery acknowledge in the callbacks instead.
        :param meta: anything; it stays in the parent. None becomes ``{}``.
        :param accept_callback: ``accept_callback(pid, time_accepted)``, called when
            on_acknowledge is; the time is CLOCK_MONOTONIC's, in seconds.
        :param soft_timeout: seconds after its start when SoftTimeLimitExceeded is
            raised inside the task; default: the pool's.
        :param timeout: seconds after its start when the task is killed and fails
            with TimeLimitExceeded; default: the pool's.
        :param expires: seconds from now, or a datetime; a task that has not started
            by then never does, and fails with TaskExpired.
        :param block: False: do not wait for a slot.
        :param slot_timeout: seconds to wait for a slot at most; None: no limit.
        :raises PoolFull: no slot without waiting, or within ``slot_timeout``.
        :raises PayloadTooLarge: the arguments alone take more than ``max_bytes``.
        :raises PoolNotRunning, PoolClosed, PoolTerminated, WrongProcess: the pool
            takes no tasks.
        :raises TypeError: the target is not callable; `args` is no iterable, or a string or
            a dict; `kwargs` is no mapping; a callback cannot be called with what it is to be
            called with (of a class's own ``on_ready`` that is not known).
        :raises Exception: whatever pickling the arguments raises; nothing is
            queued then.

        Any thread and any callback may call it. Callbacks should return soon:
        they run one after the other. Where they run: see ``callbacks_in``.
        """
        cdef Options options = None
        if (accept_callback is not None or soft_timeout is not None or timeout is not None or
                expires is not None or not block or slot_timeout is not None):
            options = options_of(self.core, soft_timeout, timeout, expires, accept_callback,
                                 block, slot_timeout)
        return submit(self.core, target, args, kwargs, callbacks, errbacks, on_acknowledge,
                      meta, self, options)

    def add(self, result, callbacks=None, errbacks=None, tid=None, meta=None):
        """Puts a *foreign* result in the queue. If the queue is full, waits for the
        first task, reaps it, then adds.

        :param result: a result of a :class:`multiprocessing.Pool`, anything with
            ``ready`` and ``get``, or a :class:`concurrent.futures.Future`.
        :param tid: its pool-unique id; default: a fresh one.
        :returns: the tid.
        :raises ValueError: the tid is in use, or the result is in the queue already.
        :raises TypeError: the result is none of those, or a callback not callable.

        It counts against the limit. Results that cannot notify are polled with a
        back-off from 1 to 50 ms, so a pool that waits for one is not at rest. What
        happens to it outside of this pool is not guaranteed.
        """
        return add_foreign(self.core, result, callbacks, errbacks, tid, meta, self)

    def _submit_future(self, kind, owner, target, args, kwargs):
        """For the facades beside: as apply_async(), but returns a JobFuture, of the class
        `kind`. Its callbacks run in the reaper; whoever waits for it collects.

        :param owner: its ``failure_of(error, job)`` returns what the future raises of
            what ended the task."""
        return new_future(
            kind, submit(self.core, target, args, kwargs, None, None, None, None, self, _of_future), owner)

    def _feed(self, Window window not None, target, items, *, bint chunked=False, bint star=False,
              bint each=False, uint64_t most=UNLIMITED, callbacks=None, errbacks=None):
        """For the facades: submits a task for each of the next items, as far as there is room in
        the window. What is wrong with an item becomes its outcome.

        :param items: an iterator.
        :param chunked: an item is a sequence of items, each of them a call; the task's result is
            the list of theirs.
        :param star: an item is the arguments of the call, and not the only one.
        :param each: with both: what a call raises does not end its chunk; Results raises it in
            the place of the call's result.
        :param most: tasks.
        :param callbacks: of each task; not where the window gives what comes first.
        :returns: False if `items` has come to its end.
        :raises Exception: what iterating raises, and what is wrong with the pool.
        """
        cdef uint16_t flags = CP_STAR if star else 0
        if chunked:
            flags |= CP_MANY | (CP_EACH if each and star else 0)
        return feed(self.core, window, target, items, flags, most, callbacks, errbacks, self)

    def _end_feed(self, Window window not None, error=None):
        """For the facades: nothing more is put into the window; who waits at it for more hears of
        that. Takes no lock.

        :param error: comes behind what is in it.
        """
        window.end(error)
        notify(self.core)

    def full(self):
        """True if the number in flight has reached the limit; constant time."""
        return self.core.in_flight >= self.core.limit

    def wait_for_result(self):
        """Blocks until at least one task has been reaped since the call began, by
        any thread; returns how many. 0 at once if nothing is in flight."""
        cdef Core core = self.core
        cdef uint64_t before
        check_process(core)
        if inside_dispatch(core):       # our own callbacks cannot return meanwhile
            before = core.collected
            wait_for(core, WAIT_COLLECTED, None, before, -1)
            return core.collected - before
        before = core.reaped
        wait_for(core, WAIT_REAPED, None, before, -1)
        return core.reaped - before

    def reap(self, timeout=...):
        """Reaps the tasks that are finished when the call begins; returns how many.

        :param timeout: seconds to wait at most for the first if none is; None:
            not at all; default: the pool's ``reap_timeout``.
        """
        cdef Core core = self.core
        cdef bint listened = False
        check_process(core)
        if timeout is ...:
            timeout = self.reap_timeout
        if core.loop.waiter == NULL or inside_dispatch(core):
            return reap(core, timeout)
        try:
            listened = hush(core)
            return reap(core, timeout)
        finally:
            if listened:
                listen(core)


cdef uint64_t reap(Core core, object timeout) except? UNLIMITED:
    cdef uint64_t before = core.reaped
    cdef uint64_t collected = core.collected
    poll_foreign(core)
    reap_inline(core)
    if inside_dispatch(core):
        if core.collected == collected and timeout is not None:
            wait_for(core, WAIT_COLLECTED, None, collected, deadline_after(timeout))
        return core.collected - collected
    if core.callbacks_in == REAPER_ONLY and core.waiting_callbacks and core.reaped == before:
        # finished, but its callbacks are the reaper's
        wait_for(core, WAIT_REAPED, None, before, deadline_after(timeout or 0))
    elif core.reaped == before and timeout is not None:
        wait_for(core, WAIT_REAPED, None, before, deadline_after(timeout))
    return core.reaped - before
