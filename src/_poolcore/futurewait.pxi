# What concurrent.futures' wait() and as_completed() find in a future: in the place of a
# Condition, of a list, and of the event that they sleep at. So they take and wait for our
# futures beside others', and help to collect.


@cython.final
@cython.freelist(8)
cdef class FutureCondition:
    """In the place of a future's Condition. Any number of threads may hold it: meanwhile the
    state does not change, whatever becomes of the task, nor is anybody told."""

    def acquire(self, blocking=True, timeout=-1):
        """Never waits."""
        condition_hold(self)
        return True

    def release(self):
        condition_release(self)

    def __enter__(self):
        condition_hold(self)
        return True

    def __exit__(self, kind, error, traceback):
        condition_release(self)

    def wait(self, timeout=None):
        """Until the state has changed, at most `timeout` seconds; whether it has."""
        cdef JobFuture future = self.future
        if future is None or not future_is_open(future):
            return True
        check_process(self.core)
        condition_release(self)
        try:
            return wait_for(self.core, WAIT_FUTURE, future, True, deadline_after(timeout)) == 1
        finally:
            condition_hold(self)

    def notify(self, n=1):
        """Those who wait look again."""
        if self.core is not None:
            notify(self.core)

    def notify_all(self):
        """Those who wait look again."""
        self.notify()


# of a future that is done
cdef FutureCondition _nothing_changes = FutureCondition.__new__(FutureCondition)


cdef inline FutureCondition condition_of(JobFuture future):
    cdef FutureCondition condition
    if not future.holds and (future.job is None or not future_is_open(future)):
        return _nothing_changes
    condition = FutureCondition.__new__(FutureCondition)
    condition.future = future
    if future.job is not None:
        condition.core = future.job.core
    elif future.withheld is not None:
        condition.core = future.withheld.core
    return condition


cdef inline void condition_hold(FutureCondition condition) noexcept:
    cdef JobFuture future = condition.future
    if future is not None and future_is_open(future):
        future_watch(future)
        future.holds += 1


cdef inline int condition_release(FutureCondition condition) except -1:
    cdef JobFuture future = condition.future
    cdef AsyncResult job
    if future is None or not future.holds:      # it was done when it was taken hold of
        return 0
    future.holds -= 1
    job = future.withheld
    if job is not None and not future.holds:
        future.withheld = None
        jobs_append(&condition.core.due, job)
        notify(condition.core)
    return 0


cdef class FutureWaiters(list):
    """Who waits for a future: as concurrent.futures knows them, but they sleep helping."""

    def append(self, waiter, /):
        """Gives a waiter of concurrent.futures an event that helps, in the place of its own."""
        if self.core is not None and type(getattr(waiter, "event", None)) is threading.Event:
            waiter.event = helping_event(self.core, waiter.event.is_set())
        list.append(self, waiter)


cdef FutureWaiters waiters_of(JobFuture future):
    cdef FutureWaiters waiters = FutureWaiters()
    if future_is_open(future) and future.job is not None:
        waiters.core = future.job.core
    return waiters


@cython.final
cdef class HelpingEvent:
    """A :class:`threading.Event`; who waits for it collects meanwhile what a pool's workers
    have done. Anybody may set it."""

    def is_set(self):
        return self.happened

    def set(self):
        self.happened = True
        notify(self.core)

    def clear(self):
        self.happened = False

    def wait(self, timeout=None):
        check_process(self.core)
        return wait_for(self.core, WAIT_EVENT, self, 0, deadline_after(timeout)) == 1


cdef HelpingEvent helping_event(Core core, bint happened):
    cdef HelpingEvent event = HelpingEvent.__new__(HelpingEvent)
    event.core = core
    event.happened = happened
    return event
