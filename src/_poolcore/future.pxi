# A future: a job as concurrent.futures sees it. It is a reference to its job and no more
# until somebody asks to be told of the end: a done callback, a waiter of wait() or
# as_completed(). Then the job knows its future, and its end is told in two steps: the
# state changes and the waiters are told, by any thread that waits or by the reaper (tell);
# after that its done callbacks are run, as callbacks are (dispatch).
#
# There is no lock. What happens to a future happens under the GIL; who holds its
# `_condition` only puts off what others are to be told (futurewait.pxi).


cdef class JobFuture:
    """Compiled part of a :class:`concurrent.futures.Future` whose task a pool runs; to be
    derived from together with that."""

    def __init__(self, *args, **kwargs):
        raise TypeError(f"{type(self).__name__} is made by submit()")

    def __class_getitem__(cls, item, /):
        return GenericAlias(cls, item)

    def __reduce__(self):
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def result(self, timeout=None):
        """The task's result, or raises what it raised. Helps to collect meanwhile.

        :param timeout: seconds to wait at most; None: without limit.
        :raises TimeoutError: not done by then; the task goes on.
        :raises CancelledError: it was cancelled.
        """
        future_outcome(self, timeout)
        if self.error is not None:
            raise self.error
        return self.value

    def exception(self, timeout=None):
        """What the task raised, or None if it returned; otherwise as :meth:`result`."""
        future_outcome(self, timeout)
        return self.error

    def done(self):
        """Whether the task has ended or was cancelled."""
        return future_is_over(self)

    def running(self):
        """Whether a worker has claimed the task and it has not ended."""
        if future_is_over(self):
            return False
        return self.state == SAID_RUNNING or self.job is not None and job_claimant(self.job) is not None

    def cancelled(self):
        """Whether the task was cancelled."""
        return future_was_cancelled(self)

    def cancel(self):
        """Takes the task back if no worker has claimed it. Returns whether so (also
        if that had been done before). Done callbacks run in this thread."""
        if future_is_over(self):
            return future_was_cancelled(self)
        if self.job is None or self.state == SAID_RUNNING:
            return False
        check_process(self.job.core)
        return future_cancel(self, self.job)

    @property
    def _job(self):
        """The job, while the future is not done; None: there is none."""
        return None if future_is_over(self) else self.job

    # ---- what concurrent.futures' own functions touch ----

    @property
    def _state(self):
        if self.due:
            return "PENDING"        # who holds it is not to see it change
        if self.state == FOLLOWS and future_is_over(self):
            return "CANCELLED_AND_NOTIFIED" if was_cancelled(self.job) else "FINISHED"
        return _future_words[self.state]

    @_state.setter
    def _state(self, word):
        self.state = _future_words.index(word)
        if self.state >= SAID_CANCELLED:
            self.job = self.owner = None        # whatever becomes of it
            self.due = False

    @property
    def _result(self):
        if future_is_over(self):
            future_settle(self)
        return self.value

    @_result.setter
    def _result(self, value):
        self.value = value

    @property
    def _exception(self):
        if future_is_over(self):
            future_settle(self)
        return self.error

    @_exception.setter
    def _exception(self, error):
        self.error = error

    @property
    def _condition(self):
        future_watch(self)
        return condition_of(self)

    @property
    def _waiters(self):
        if self.waiters is None:
            future_watch(self)
            self.waiters = waiters_of(self)
        return self.waiters

    @property
    def _done_callbacks(self):
        if self.callbacks is None:
            future_watch(self)
            self.callbacks = []
        return self.callbacks


# in the order of FutureState
cdef tuple _future_words = ("PENDING", "RUNNING", "CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED")


cdef JobFuture new_future(object kind, AsyncResult job, object owner):
    cdef JobFuture future = (<PyTypeObject *> kind).tp_new(<type> kind, <PyObject *> _no_arguments, NULL)
    future.job = job
    future.owner = owner
    return future

cdef tuple _no_arguments = ()


cdef inline bint future_is_over(JobFuture future) noexcept:
    return (future.state >= SAID_CANCELLED or
            future.job is not None and future.job.state != PENDING)


cdef inline bint future_is_open(JobFuture future) noexcept:
    """Whether `_state` may change yet."""
    return future.due or not future_is_over(future)


cdef bint was_cancelled(AsyncResult job) except -1:
    """Whether a job that has ended and that nobody has looked at was cancelled."""
    return job.outcome == REASON and job.payload[0] is _errors.TaskCancelled


cdef bint future_was_cancelled(JobFuture future) except -1:
    if future.state < SAID_CANCELLED and future_is_over(future):
        return was_cancelled(future.job)
    return future.state == SAID_CANCELLED or future.state == CANCEL_NOTIFIED


cdef int future_outcome(JobFuture future, object timeout) except -1:
    """Waits for the outcome; it is in `value` and `error` then."""
    if not future_is_over(future):
        if future.job is None:
            raise RuntimeError(f"{future!r} has no task")
        check_process(future.job.core)
        if not wait_for(future.job.core, WAIT_FUTURE, future, 0, deadline_after(timeout)):
            raise TimeoutError
    future_settle(future)
    if future.state != HAS_ENDED:
        from concurrent.futures import CancelledError
        raise CancelledError
    return 0


cdef int future_settle(JobFuture future) except -1:
    """Makes the job's outcome the future's, once. Runs user code."""
    cdef AsyncResult job = future.job
    cdef object owner, error = None
    if future.state >= SAID_CANCELLED:
        return 0
    if was_cancelled(job):
        future.state = CANCEL_NOTIFIED
    else:
        job_settle(job)
        owner = future.owner
        if job.outcome != VALUE and owner is not None:
            error = owner.failure_of(job.payload, job)
        if future.state >= SAID_CANCELLED:      # another thread was quicker
            return 0
        if job.outcome == VALUE:
            future.value = job.payload
        future.error = error
        future.state = HAS_ENDED
    if not future.due:
        future.job = None
    future.owner = None
    return 0


cdef bint future_cancel(JobFuture future, AsyncResult job) except -1:
    cdef Core core = job.core
    if not withdraw(core, job):
        return False
    end_with(core, job, (_errors.TaskCancelled, {}))
    if not future.due:
        future_settle(future)
    elif future.withheld is None:
        jobs_remove(&core.due, job)
        tell(core, job, True)
    bury(core)
    notify(core)
    if not future.due and future.callbacks is not None:
        future._invoke_callbacks()
    return True


# ---- who is told of the end ----

cdef inline void future_watch(JobFuture future) noexcept:
    """From now on the job's end may have to be told."""
    cdef AsyncResult job = future.job
    if job is not None and job.state == PENDING:
        job.callbacks = future


cdef inline bint future_ended(AsyncResult job) noexcept:
    """The job is collected: whether there is anybody to be told. While the future is
    held it keeps the job to itself."""
    cdef JobFuture future
    if job.callbacks is None:           # nobody has asked
        return False
    future = <JobFuture> job.callbacks
    if future.job is not job:           # its outcome was set by hand
        return False
    if future.holds:
        future.withheld = job
        future.due = True
    elif future.waiters is not None and PyList_GET_SIZE(future.waiters):
        future.due = True
    elif future.callbacks is not None and PyList_GET_SIZE(future.callbacks):
        future.due = True
    return future.due


cdef inline bint future_withholds(AsyncResult job) noexcept:
    return (<JobFuture> job.callbacks).withheld is job


cdef int tell_due(Core core) except -1:
    """By who waits, or the reaper; unpickles outcomes."""
    cdef uint64_t most = core.due.count
    cdef AsyncResult job
    while most and core.due.first != NULL:
        job = <AsyncResult> core.due.first
        jobs_remove(&core.due, job)
        tell(core, job, False)
        job = None              # see bury
        most -= 1
    return 0


cdef int tell(Core core, AsyncResult job, bint cancelling) except -1:
    """The state changes, and the waiters are told. Done callbacks are queued, unless the
    caller runs them."""
    cdef JobFuture future = <JobFuture> job.callbacks
    cdef object waiters = None
    if future.job is job:
        try:
            future_settle(future)
        except BaseException:           # a Ctrl-C: once more, later
            jobs_prepend(&core.due, job)
            raise
        if future.holds:                # since a moment ago
            future.withheld = job
            return 0
        waiters = future.waiters and list(future.waiters)
        future.due = False
        future.job = None
    count_outcome(core, job, job.outcome == VALUE)
    try:
        if waiters:
            tell_waiters(future, waiters)
    finally:
        core.untold -= 1
        if future.callbacks and not cancelling:
            enqueue(core, job)
        else:
            core.waiting_callbacks -= 1
            job_finished(core, job)
        notify(core)
    let_keeper_go(core)
    return 0


cdef int tell_waiters(JobFuture future, list waiters) except -1:
    for waiter in waiters:
        if future.state == CANCEL_NOTIFIED:
            waiter.add_cancelled(future)
        elif future.error is None:
            waiter.add_result(future)
        else:
            waiter.add_exception(future)
    return 0
