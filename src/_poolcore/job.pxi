# A job: the parent's record of one task. It is the AsyncResult handed to the caller.

import multiprocessing
import sys
import threading
from signal import SIGTERM, valid_signals
from types import GenericAlias


@cython.final
@cython.freelist(512)
@cython.no_gc_clear      # a failure that nobody saw is told when it goes
cdef class AsyncResult:
    """The outcome, to be, of one task; made by ``apply_async``.

    Behaves as :class:`multiprocessing.pool.AsyncResult` (and passes for one with
    ``isinstance``). Completion is reported after the job's own callbacks have
    returned, except inside a callback. Any thread may use it; a forked child
    may not.
    """

    def __init__(self):
        raise TypeError("AsyncResult is made by apply_async")

    def __dealloc__(self):
        if CP_DEBUG and self.number:    # else it was never a job
            debug_alive["jobs"] -= 1
        if CP_UNLIKELY(self.marks & UNSEEN):
            tell_unseen(self)

    @property
    def __class__(self):
        # isinstance(result, multiprocessing.pool.AsyncResult) holds, without the
        # instance dict and the slower construction of a subclass; while that module
        # has not been imported nobody can ask
        return getattr(sys.modules.get("multiprocessing.pool"), "AsyncResult", AsyncResult)

    @classmethod
    def __class_getitem__(cls, item, /):
        """``AsyncResult[float]``: of a task that returns one. For annotations."""
        return GenericAlias(cls, item)

    def __repr__(self):
        return f"<AsyncResult tid={self.tid} {job_word(self)}>"

    @property
    def tid(self):
        """The pool-unique id of the job (not a thread id)."""
        return job_tid(self)

    @property
    def meta(self):
        """What was given as ``meta`` ({} if nothing was); it never leaves the parent."""
        return job_meta(self)

    @property
    def worker_pid(self):
        """Process id of the worker that claimed the task; None until then."""
        if self.state == PENDING:
            return job_claimant(self)
        return self.pid or None

    def ready(self):
        """Whether the task has ended and its callbacks have returned."""
        return job_ready(self)

    def successful(self):
        """Whether the task succeeded. ValueError if it is not ready."""
        if not job_ready(self):
            raise ValueError(f"{self!r} not ready")
        job_settle(self)
        self.marks &= ~<uint16_t> UNSEEN
        return self.outcome == VALUE

    def wait(self, timeout=None):
        """Waits until ready, at most `timeout` seconds (None: without limit).

        Helps to collect meanwhile, and runs at most this job's own callbacks.
        """
        await_job(self, timeout)

    def cancel(self):
        """Takes the task back if it has not started: it never runs, and fails with
        TaskCancelled (a concurrent.futures.CancelledError). Returns whether so."""
        if self.marks & OF_FUTURE and self.callbacks is not None:
            return self.callbacks.cancel()
        check_process(self.core)
        return cancel(self, _errors.TaskCancelled, {})

    def terminate(self, signum=SIGTERM, *, grace=None):
        """Ends the task, and nothing but it: it fails with TaskTerminated.

        A running one's worker gets `signum` and, if it has not ended after `grace`
        seconds, SIGKILL (None: the pool's ``kill_grace``); another worker takes its place. The
        pool's `soft_signal` raises its `soft_limit_error` in the task, which may clean up.
        One that has not started never does. Its end is reported within 0.2 s, however long the
        worker takes. Returns False if the task has ended already, or its end is decided: the
        first decision stands."""
        check_process(self.core)
        if signum not in valid_signals():
            raise ValueError(f"{signum!r} is not a signal")
        return terminate(self, signum, None if grace is None else grace_of(grace))

    def get(self, timeout=None):
        """Returns the result or raises what the task raised (``__cause__`` holds
        the worker's traceback). multiprocessing.TimeoutError if not ready within
        `timeout` seconds; the task goes on."""
        if not await_job(self, timeout):
            raise _mp_timeout_error
        job_settle(self)
        if self.outcome == VALUE:
            return self.payload
        self.marks &= ~<uint16_t> UNSEEN
        raise self.payload


@cython.final
cdef class Limits:
    """Time limits of a task in ns; 0: none."""


@cython.final
cdef class Acceptance:
    """What is called when a worker has claimed the task, if it is more than on_acknowledge."""


cdef object _mp_timeout_error = multiprocessing.TimeoutError

cdef tuple _state_words = ("pending", "collected", "delivering")


cdef object job_word(AsyncResult job):
    if job.state != FINISHED:
        return _state_words[job.state]
    return "succeeded" if job.outcome in (RAW_RESULT, FOREIGN, VALUE) else "failed"


cdef inline object job_meta(AsyncResult job):
    if job.own_meta is None:
        job.own_meta = {}
    return job.own_meta


cdef bint await_job(AsyncResult job, object timeout) except -1:
    """Whether the job is ready, within `timeout` seconds."""
    if job_ready(job):
        return True
    check_process(job.core)
    return wait_for(job.core, WAIT_JOB, job, 0, deadline_after(timeout)) and job_ready(job)


cdef inline bint job_ready(AsyncResult job) noexcept:
    if job.state == FINISHED:
        return True
    return job.state != PENDING and inside_dispatch(job.core)


cdef object job_claimant(AsyncResult job):
    cdef Channel channel = job.channel
    cdef uint64_t claim
    if channel is None or channel.fork_generation != fork_generation or not frame_stands(job):
        return None
    claim = cp_peek(&frame_of(job).claim)
    if claim == cp_claim(job.number, CP_CLAIMED) or claim == cp_claim(job.number, CP_DONE):
        return channel.pid or None
    return None


cdef int job_settle(AsyncResult job) except -1:
    """Turns the raw outcome into VALUE or EXCEPTION, once. Runs user code."""
    if job.outcome >= VALUE:
        return 0
    if job.outcome == RAW_RESULT and job.payload is None:
        job.outcome = VALUE
        return 0
    while job.marks & DECODING:      # another thread is at it
        wait_for(job.core, WAIT_DECODED, job, 0, -1)
        if job.outcome >= VALUE:
            return 0
    if type(job.payload) is Delivery:
        check_process(job.core)         # a child has no descriptor to read it from
    job.marks |= DECODING
    try:
        settle_raw(job)
    finally:
        job.marks &= ~<uint16_t> DECODING
        notify(job.core)
    return 0


cdef int settle_raw(AsyncResult job) except -1:
    try:
        if job.outcome == REASON:
            kind, details = job.payload
            job.payload = kind(**details)
            job.outcome = EXCEPTION
        elif job.outcome == NO_MEMORY:
            job.payload = MemoryError("no memory for the outcome of the task")
            job.outcome = EXCEPTION
        elif job.outcome == EXPIRED:
            job.payload = _errors.TaskExpired(job_tid(job))
            job.outcome = EXCEPTION
        elif job.outcome == FOREIGN:
            success, job.payload = _foreign.outcome_of(job.payload)
            job.outcome = VALUE if success else EXCEPTION
        else:
            if job.outcome == RAW_ERROR:
                if type(job.payload) is Delivery:
                    job.payload = delivery_bytes(job.payload)
                job.payload = _remote.load_error(job.payload)
                job.outcome = EXCEPTION
            else:
                if type(job.payload) is Delivery:
                    job.payload = delivery_load(job.core.codec, job.payload)
                else:
                    job.payload = decode_bytes(job.core.codec, job.payload)
                job.outcome = VALUE
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not job.marks & INTERRUPTED and in_main_thread():
            # somebody's Ctrl-C, probably; the second one is of the outcome's own making
            job.marks |= INTERRUPTED
            raise
        job.payload = _remote.decoding_error(error)
        job.outcome = EXCEPTION
        mark_unseen(job.core, job)
    return 0


cdef inline void mark_unseen(Core core, AsyncResult job) noexcept:
    """It has failed by itself; who will look? What ends a task from outside is in the log already,
    or somebody has asked for it. A future is silent, as those of concurrent.futures are; what
    comes out of a window is raised there."""
    if job.errbacks is None and not core.overridden and not job.marks & (IS_FOREIGN | OF_FUTURE | OF_MANY):
        job.marks |= UNSEEN


cdef void tell_unseen(AsyncResult job) noexcept:
    if job.core.fork_generation != fork_generation or sys.is_finalizing():
        return
    try:
        from celery_pool.wire import unseen
        if job.outcome == NO_MEMORY:
            settle_raw(job)
        outcome = job.payload
        if type(outcome) is Delivery:
            outcome = delivery_bytes(outcome)
        target = None if job.function is None else job.function.target
        unseen.tell(job.core.logger, job.number, target, job.pid or None, outcome)
    except BaseException:
        _errors.report_unraisable("a failure that nobody has looked at could not be logged")


cdef bint in_main_thread() except -1:
    return threading.current_thread() is threading.main_thread()
