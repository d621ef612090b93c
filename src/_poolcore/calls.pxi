# Many calls at once, and their values: what the facades' map and imap are made of.
#
#   items -> feed -> window of jobs -> Results -> values
#
# Nothing is done for a task in the parent that nobody has to wait for: results stay as they
# came until they are taken, and who waits for them collects.

cdef bint feed(Core core, Window window, object target, object items, uint16_t flags, uint64_t most,
               object callbacks, object errbacks, object keeper) except -1:
    """Submits a task for each of the next `most` items, as far as there is room in the window.
    False: `items` has come to its end. Raises what iterating raises, and what is wrong with
    the pool; what is wrong with an item becomes the outcome of its task.

    :param flags: CP_MANY: an item is a sequence of items, each a call. CP_STAR: an item (of the
        sequence) is the arguments of a call, and not the only one.
    """
    cdef PyObject *found
    cdef AsyncResult job
    cdef uint64_t key
    cdef uint16_t marks = OF_MANY
    callbacks = checked_callables(core, callbacks, "callback(result, meta)")
    errbacks = checked_callables(core, errbacks, "errback(exc, meta)")
    if not window.ordered:
        if callbacks is not None or errbacks is not None:
            raise ValueError("callbacks or a window as completed, not both")
        callbacks = window
        marks |= IN_WINDOW
    while most and window_room(window):
        found = PyIter_Next(items)
        if found == NULL:
            return False
        item = <object> found
        Py_DECREF(item)
        most -= 1
        window_put(window, None)        # first: a task may end before we are back
        key = window.count - 1
        try:
            job = send_or_fail(core, target, item, flags, callbacks, errbacks, keeper, marks)
        except BaseException:           # there is no job
            if key >= window.taken:
                window.count -= 1
            raise
        if window.ordered and key >= window.taken:      # else it was closed meanwhile
            window_fill(window, key, job)
        reap_if_due(core)
    return True


cdef AsyncResult send_or_fail(Core core, object target, object item, uint16_t flags,
                              object callbacks, object errbacks, object keeper, uint16_t marks):
    """The job of one item; what cannot be sent has failed with the reason."""
    try:
        check_running(core)
        if flags == 0:
            item = (item,)
        elif flags == CP_STAR and type(item) is not tuple:
            item = tuple(item)
        return send(core, target, item, None, callbacks, errbacks, None, None, keeper,
                    core.deadlines.limits, None, flags if flags & CP_MANY else 0, marks)
    except BaseException as error:
        if not _remote.of_arguments(error):
            raise
        return submit_ended(
            core, _remote.without_frames(error), callbacks, errbacks, None, keeper, marks)


cdef object _Raised = _remote.Raised


cdef class Results:
    """An iterator over the values of a window's jobs.

    :param chunked: a job's value is a list of values.
    :param owner: its ``failure_of(error, job)`` returns what is raised of what ended a task.

    Any thread may use it; a forked child may not (WrongProcess), but gather() what has ended.
    """

    def __init__(self, TaskPoolBase pool not None, Window window not None, *, bint chunked=False, owner=None):
        self.core = pool.core
        self.keeper = pool
        self.owner = owner
        self.window = window
        self.chunked = chunked

    @classmethod
    def __class_getitem__(cls, item, /):
        """``Results[float]``: of tasks that return one. For annotations."""
        return GenericAlias(cls, item)

    @staticmethod
    def iterated_alike(kind):
        """A decorator of subclasses that do not define __next__: without it that, which in
        Cython is a method besides, would be looked up and called for each value."""
        if not issubclass(kind, Results):
            raise TypeError(f"{kind!r} is no subclass of Results")
        cp_inherit_iternext(kind, Results)
        return kind

    def __iter__(self):
        return self

    def __next__(self):
        return next_value(self, -1)

    def next(self, timeout=None):
        """The next value, or raises what its task raised; the next call goes on behind it.

        :param timeout: seconds to wait at most; None: without limit.
        :raises multiprocessing.TimeoutError: it is not there by then.
        :raises StopIteration: there are no more.
        """
        return next_value(self, deadline_after(timeout))

    def close(self):
        """Of an ordered window: there are no more, and tasks that have not started are
        cancelled."""
        close_results(self)

    def gather(self, list values not None, timeout=None):
        """Appends all values; the first exception, of a task or behind the last, is kept in
        `error`. Returns whether nothing more will come.

        :param timeout: seconds to wait at most; None: without limit.
        """
        return gather(self, values, deadline_after(timeout))


cdef object next_value(Results results, int64_t deadline):
    cdef AsyncResult job
    check_process(results.core)
    while True:
        if results.values is not None:
            return next_of_chunk(results)
        results.window.consumer = PyThread_get_thread_ident()
        job = settled_first(results, deadline)
        if job is None:
            if not results.window.over or len(results.window):
                raise _mp_timeout_error
            error = window_end(results.window)
            raise StopIteration if error is None else _remote.not_stopping(error)
        if results.values is not None:
            continue                    # another thread was faster
        window_take(results.window)
        if job.outcome != VALUE:
            error = job.payload
            raise _remote.not_stopping(
                error if results.owner is None else results.owner.failure_of(error, job))
        if not results.chunked:
            return job.payload
        results.values = job.payload
        results.at = 0


cdef inline object next_of_chunk(Results results):
    """The list lets go of what is handed out."""
    cdef list values = results.values
    value = values[results.at]
    values[results.at] = None
    results.at += 1
    if results.at == len(values):
        results.values = None
    if type(value) is _Raised:
        raise _remote.not_stopping(value.error)
    return value


cdef int close_results(Results results) except -1:
    cdef Window window = results.window
    results.values = None
    if window is None:                  # __init__ was not called
        return 0
    jobs = window.pending()
    window_clear(window)
    if results.core.fork_generation == fork_generation:
        for job in jobs:
            cancel(job, _errors.TaskCancelled, {})
    return 0


cdef bint gather(Results results, list values, int64_t deadline) except -1:
    cdef AsyncResult job
    while True:
        job = settled_first(results, deadline)
        if job is None:
            if not results.window.over or len(results.window):
                return False
            note_first(results, window_end(results.window))
            return True
        window_take(results.window)
        if job.outcome != VALUE:
            note_first(results, (<object> job.payload).with_traceback(None))
        elif results.chunked:
            values.extend(job.payload)
        else:
            values.append(job.payload)


cdef inline void note_first(Results results, object error) noexcept:
    if results.error is None:
        results.error = error


cdef AsyncResult settled_first(Results results, int64_t deadline):
    """The next job, its outcome decoded, not yet taken. None: nothing more comes, or not before
    the deadline."""
    cdef Window window = results.window
    cdef PyObject *first
    cdef AsyncResult job
    while True:
        first = window_first(window, inside_dispatch(results.core))
        if first != NULL:
            job = <AsyncResult> first
            job_settle(job)             # runs user code: another thread may take it meanwhile
            if results.chunked and job.outcome == VALUE and (type(job.payload) is not list or not job.payload):
                job.payload = _errors.ResultDecodingError("the results of a chunk are not a list")
                job.outcome = EXCEPTION
            if window_first(window, True) == <PyObject *> job:
                return job
            continue
        if window.over and window.count == window.taken:
            return None
        check_process(results.core)
        if not wait_for(results.core, WAIT_WINDOW, window, 0, deadline):
            return None
