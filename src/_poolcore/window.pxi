# A window: what of one stream of calls has been submitted and not been taken. It says what
# may be submitted now, and what comes out next: in the order in which it was put in, or as
# it ended.
#
# It waits for nothing and knows no pool; the GIL is its lock, and every method is whole. An
# entry is a job, which ends by itself, or a place, which arrive() fills.

@cython.final
cdef class Window:
    """What of one stream has been put in and not been taken out.

    :param size: most entries that are in it; None: no bound.
    :param ordered: entries come out as they were put in; False: as they end.

    Any thread may use it, and a signal handler.
    """

    def __cinit__(self, size=None, bint ordered=True):
        self.size = UNLIMITED if size is None else size
        self.ordered = ordered
        self.consumer = PyThread_get_thread_ident()
        window_widen(self, 16)

    def __dealloc__(self):
        cdef uint64_t i
        if self.entries != NULL:
            for i in range(self.mask + 1):
                Py_XDECREF(self.entries[i])
            PyMem_Free(self.entries)

    def __len__(self):
        return self.count - self.taken

    @property
    def size(self):
        """Most entries that are in it; None: no bound."""
        return None if self.size == UNLIMITED else self.size

    @property
    def room(self):
        """How many more entries may be put in now."""
        return min(window_room(self), <uint64_t> PY_SSIZE_T_MAX)

    @property
    def ready(self):
        """Whether take() has something to give."""
        return window_first(self, False) != NULL

    def put(self, AsyncResult job=None):
        """One more entry: a job without callbacks, or a place that arrive() fills. Returns its
        key: 0, 1, 2 ..."""
        if self.over:
            raise ValueError("the window is over")
        if job is not None and not self.ordered and job.state != FINISHED and (
                job.callbacks is not None or job.errbacks is not None or job.acknowledge is not None):
            raise ValueError("a job with callbacks tells them that it has ended, and no window")
        window_put(self, job)
        return self.count - 1

    def withdraw(self):
        """The last place that was put in is no more: its task could not be submitted."""
        if self.count == (self.taken if self.ordered else self.arrived) or (
                self.ordered and self.entries[(self.count - 1) & self.mask] != NULL):
            raise ValueError("there is no such place")
        self.count -= 1

    def arrive(self, outcome, uint64_t key):
        """The place with this key has ended. May serve as a callback of the task, whose `meta`
        is the key."""
        if key >= self.count or self.ordered and key < self.taken:
            raise ValueError(f"{key} is no key of an entry")
        if self.ordered:
            if self.entries[key & self.mask] != NULL:
                raise ValueError(f"entry {key} has ended already")
            window_fill(self, key, outcome)
        elif self.arrived == self.count:
            raise ValueError("all entries have ended already")
        else:
            window_arrived(self, outcome)

    def take(self):
        """Takes out what comes next: the job, or what arrive() was given. LookupError if it has
        not ended."""
        if window_first(self, False) == NULL:
            raise LookupError("nothing has ended that comes next")
        return window_take(self)

    def end(self, error=None):
        """Nothing more is put in; `error` comes behind what is."""
        self.error = error
        self.over = True

    def pending(self):
        """The jobs of an ordered one that have not ended, the last one first."""
        cdef uint64_t key = self.count
        cdef PyObject *entry
        jobs = []
        while self.ordered and key != self.taken:
            key -= 1
            entry = self.entries[key & self.mask]
            if entry != NULL and type(<object> entry) is AsyncResult and (<AsyncResult> entry).state == PENDING:
                jobs.append(<object> entry)
        return jobs


cdef int window_widen(Window window, uint64_t capacity) except -1:
    """Keeps all entries at their places, modulo the new capacity, a power of two."""
    cdef PyObject **wider = <PyObject **> PyMem_Calloc(capacity, sizeof(PyObject *))
    cdef uint64_t key
    if wider == NULL:
        raise MemoryError()
    for key in range(window.taken, window.count):
        wider[key & (capacity - 1)] = window.entries[key & window.mask]
    PyMem_Free(window.entries)
    window.entries = wider
    window.mask = capacity - 1
    return 0


cdef inline uint64_t window_room(Window window) noexcept:
    cdef uint64_t inside = window.count - window.taken
    return window.size - inside if inside < window.size else 0


cdef inline int window_put(Window window, AsyncResult job) except -1:
    """One more entry; None: its place is kept."""
    if window.count - window.taken > window.mask:
        window_widen(window, 2 * (window.mask + 1))
    window.count += 1
    if job is None:
        return 0
    job.marks = job.marks & ~<uint16_t> UNSEEN | OF_MANY
    if window.ordered:
        window_fill(window, window.count - 1, job)
    elif job.state == FINISHED:
        window_arrived(window, job)
    else:
        job.callbacks = window
        job.marks |= IN_WINDOW
    return 0


cdef inline void window_fill(Window window, uint64_t key, object what) noexcept:
    """Of an ordered one."""
    Py_INCREF(what)
    window.entries[key & window.mask] = <PyObject *> what


cdef inline void window_arrived(Window window, object what) noexcept:
    """Of a window as completed: an entry has ended."""
    Py_INCREF(what)
    window.entries[window.arrived & window.mask] = <PyObject *> what
    window.arrived += 1


cdef int window_clear(Window window) except -1:
    """Nothing more is put in, and nothing of what is in an ordered one comes out."""
    cdef PyObject **place
    window.over = True
    window.error = None
    entries = []                        # destructors run when the state is whole
    while window.ordered and window.taken != window.count:
        place = &window.entries[window.taken & window.mask]
        window.taken += 1
        if place[0] != NULL:
            entries.append(<object> place[0])
            Py_DECREF(<object> place[0])
            place[0] = NULL
    return 0


cdef inline PyObject *window_first(Window window, bint inside_dispatch) noexcept:
    """What comes next, borrowed, if it has ended; else NULL. `inside_dispatch`: for who runs
    callbacks, and so keeps those of others from running."""
    cdef PyObject *entry
    if window.taken == (window.count if window.ordered else window.arrived):
        return NULL
    entry = window.entries[window.taken & window.mask]
    if entry == NULL or type(<object> entry) is not AsyncResult or (<AsyncResult> entry).state == FINISHED:
        return entry
    return entry if inside_dispatch and (<AsyncResult> entry).state != PENDING else NULL


cdef object window_end(Window window):
    """What comes behind the last entry: an error, once; else None."""
    error = window.error
    window.error = None
    return error


cdef inline object window_take(Window window):
    """Takes out what window_first has found."""
    cdef PyObject **place = &window.entries[window.taken & window.mask]
    cdef object entry = <object> place[0]
    place[0] = NULL
    window.taken += 1
    Py_DECREF(entry)
    if window.on_room is not None:
        on_room = window.on_room
        window.on_room = None
        on_room()
    return entry
