# The worker's side: waits for frames, claims, calls, publishes.

@cython.final
@cython.no_gc_clear      # what has been delivered knows it until the end
cdef class WorkerEnd:
    """A worker's ends of its two rings; used by celery_pool/worker.py in the child."""

    def __cinit__(self, int pool_fd, int parent_bell, int segment_fd, int bell,
                  uint64_t spin_ns, uint32_t yields, pickler=pickle, uint64_t threshold=UNLIMITED,
                  bint copies=False, tuple leave_on=()):
        """Raises AttachError if the parent runs another build than this process."""
        cdef uint64_t ring_size
        cdef uint8_t *base
        self.fork_generation = fork_generation
        self.control = <cp_control *> map_segment(pool_fd, CP_PAGE, PROT_READ)
        self.header = <cp_header *> map_segment(segment_fd, CP_PAGE, PROT_READ | PROT_WRITE)
        self.size = CP_PAGE
        if (self.control.magic != CP_MAGIC or self.control.abi != CP_ABI or
                self.control.frame_size != sizeof(cp_frame) or self.header.magic != CP_MAGIC or
                self.header.abi != CP_ABI or self.header.header_size != sizeof(cp_header)):
            raise _errors.AttachError(
                "the parent process runs another build of celery_pool than its worker: "
                "was the package upgraded under a running program?")
        ring_size = self.header.ring_size
        munmap(self.header, CP_PAGE)
        self.header = NULL
        self.size = CP_PAGE + 2 * ring_size + CP_SHOWN_SIZE
        base = <uint8_t *> map_segment(segment_fd, self.size, PROT_READ | PROT_WRITE)
        cp_shm_keep_private(base, self.size)
        self.header = <cp_header *> base
        cp_consumer_init(&self.submission, &self.header.submission, base + CP_PAGE, ring_size)
        cp_producer_init(&self.completion, &self.header.completion, base + CP_PAGE + ring_size, ring_size)
        self.shown = <cp_shown *> (base + CP_PAGE + 2 * ring_size)
        self.parent.epoch = &self.control.parent_epoch
        self.parent.fd = parent_bell
        cp_patience_init(&self.patience, spin_ns, yields)
        self.codec = Codec(pickler, cp_ring_longest(ring_size), threshold)
        self.results = Arena(segment_fd, self.size)
        self.results.owner = <void *> self
        self.results.hear_returns = worker_hears_returns
        self.arguments = PeerArena(pool_fd, CP_ARENA_AT)
        self.arguments.copies = copies
        self.arguments.owner = <void *> self
        self.arguments.give_back = worker_give_back
        self.bell = bell
        self.functions = [None] * CP_FUNCTIONS
        self.owed = []
        self.leave_on = leave_on

    def __dealloc__(self):
        if self.arguments is not None:
            peer_leave(self.arguments)
        if self.results is not None:
            self.results.fd = -1
            self.results.hear_returns = NULL
        if self.fork_generation == fork_generation:
            if self.control != NULL:
                munmap(self.control, CP_PAGE)
            if self.header != NULL:
                munmap(self.header, self.size)

    def hello(self):
        """The initializer has returned."""
        worker_say(self, CP_HELLO, None)
        self.serving = True

    def start_failed(self, bytes error not None):
        """It has not; `error` is remote.dump_error's."""
        worker_say(self, CP_START_FAILED, error)

    def serve(self):
        """Runs tasks until the parent says stop, or a task that the worker leaves."""
        serve(self)
        has_ended(self, cp_now())

    def leave(self):
        """The worker leaves after the task that runs, or at once if none does; before hello(),
        after its first one."""
        self.leaving = self.errands = True
        if self.serving and not self.told:      # so that its successor starts meanwhile
            self.told = worker_tells(self, CP_LEAVING, 0)

    def soft_limit_meant(self):
        """For the handler of the soft limit's signal: whether the task that is
        running now is the one that the parent meant."""
        cdef uint64_t tid
        if self.current == NULL:
            return False
        tid = cp_observe(&self.header.soft_tid)
        return cp_claim_tid(cp_peek(&self.current.claim)) == tid

    def complete_all(self):
        """Ends every task that waits with None, without calling it; returns how
        many. For tests and benchmarks of the parent's side."""
        return complete_all(self)


def die_with(int lifeline):
    """This process is killed when the last write end of the pipe is closed, also
    inside C code. Returns whether the platform can do that."""
    return cp_die_with(lifeline) == 0


def shield(int signum, long owner, bint over=False):
    """This signal does not reach this process, unless the process `owner` or this one itself has
    sent it: then it ends it, but for SIGINT, or gets to the handler that is there now, if the shield
    is raised `over` that. A process that is executed here does not inherit it."""
    check_fd(cp_shield(signum, <int> owner, over))


def is_shielded(int signum):
    """Whether nobody has set another handler since."""
    return cp_is_shielded(signum)


cdef int serve(WorkerEnd end) except -1:
    cdef cp_frame frame
    cdef cp_frame *shared
    cdef uint64_t position
    cdef const uint8_t *payload
    cdef uint64_t now
    cdef int got
    while True:
        got = cp_ring_next(&end.submission, &frame, &position, &payload)
        if got == CP_EMPTY:
            wait_for_submission(end)
            continue
        if got != CP_FRAME:
            raise SystemError("the submission ring is corrupt")
        if frame.kind == CP_TASK:
            shared = cp_ring_at(end.submission.base, end.submission.size, position)
            now = cp_now()
            has_ended(end, now)
            end.began = now
            cp_poke(&shared.start, now)
            if cp_claim_take(shared, cp_claim_tid(cp_peek(&frame.claim))):
                if cp_peek(&frame.start) and now > cp_peek(&frame.start) and not frame.flags & CP_STAMPED:
                    refuse_task(end, shared)
                else:
                    begins(end, &frame, position, now)
                    run_task(end, &frame, shared, payload)
                PyErr_CheckSignals()
                if CP_UNLIKELY(end.errands) and worker_has_to_leave(end):
                    return 0
            else:
                end.skipped = True
        elif frame.kind == CP_GIVE_BACK:
            if position >= end.heard:
                arena_given_back(end.results, frame.fid, <void *> end)
        elif frame.kind == CP_DEFINE:
            end.functions[frame.fid % CP_FUNCTIONS] = (frame.fid, copied(payload, frame.length), None)
            end.places[frame.fid % CP_FUNCTIONS] = <uint8_t> (
                tally_for(end.shown.tallies, frame.fid) - end.shown.tallies)
        elif frame.kind == CP_STOP:
            return 0
        cp_ring_advance(&end.submission, &frame)
        if cp_peek(&end.submission.head) - end.submission.released >= end.submission.size // 16:
            release_room(end)


cdef inline void release_room(WorkerEnd end) noexcept:
    cp_ring_release(&end.submission)
    if end.skipped:         # no completion tells of the room that they left
        end.skipped = False
        cp_bell_ring_if_parked(&end.parent)


cdef inline void begins(WorkerEnd end, cp_frame *frame, uint64_t position, uint64_t now) noexcept:
    """It has claimed the task: what onlookers may know. No clock is asked for that."""
    cdef uint64_t waited = 0
    cp_poke(&end.shown.running, position + 1)
    end.tally = &end.shown.tallies[end.places[frame.fid % CP_FUNCTIONS] if frame.fid else 0]
    if frame.flags & CP_STAMPED:
        waited = now - cp_peek(&frame.start)
        cp_tally_waited(end.tally, waited)
    if CP_UNLIKELY(cp_peek(&end.control.trace_until) > now):
        end.failed = False
        end.record = cp_record_begin(end.shown, cp_claim_tid(cp_peek(&frame.claim)), now, waited, frame.fid)


cdef inline void has_ended(WorkerEnd end, uint64_t now) noexcept:
    """The frame that was claimed last, if the worker has not waited since, took until now."""
    cdef uint64_t ran
    if not end.began:
        return
    ran = now - end.began
    end.pace = <uint32_t> min(ran, <uint64_t> 0xffffffff)
    end.began = 0
    if end.tally != NULL:
        cp_tally_ran(end.tally, ran)
        end.tally = NULL
        if CP_UNLIKELY(end.record != NULL):
            cp_record_end(end.shown, end.record, ran, end.failed)
            end.record = NULL


cdef int wait_for_submission(WorkerEnd end) except -1:
    release_room(end)
    if end.began:
        has_ended(end, cp_now())
    worker_wait(end, cp_has_submission, &end.submission, next_prune(end))
    return PyErr_CheckSignals()


cdef inline int64_t next_prune(WorkerEnd end) noexcept:
    """Gives memory back that has not been used for a while; ns to the next time, or -1."""
    cdef uint64_t now
    if end.results.oldest == NULL and end.arguments.count == 0:
        return -1
    now = cp_now()
    return sooner(arena_prune(end.results, now), peer_prune(end.arguments, now))


cdef void worker_wait(WorkerEnd end, cp_condition condition, void *context, int64_t timeout) noexcept:
    """Until the condition holds, or something else happened: look again."""
    end.epoch += 1
    with nogil:
        if not cp_wait_awake(&end.patience, end.parent.epoch, condition, context):
            cp_park(&end.header.worker_epoch, end.epoch, end.bell, -1, condition, context, timeout,
                    &end.patience)
            cp_unpark(&end.header.worker_epoch, end.bell)


cdef int run_task(WorkerEnd end, cp_frame *frame, cp_frame *shared, const uint8_t *payload) except -1:
    cdef uint64_t tid = cp_claim_tid(cp_peek(&frame.claim))
    cdef cp_frame *out = NULL
    cdef object data
    cdef const void *payload_out = NULL
    cdef uint64_t length = 0
    cdef uint16_t flags = 0
    cdef int kind = CP_RESULT
    cdef bint unpickled = False
    if frame.flags & CP_WANT_ACK:
        worker_reserve(end, 0, &out)
        worker_publish(end, out, CP_ACK, 0, shared)
    try:
        end.current = shared
        result = call_target(end, frame, payload, &unpickled)
        end.current = NULL
        data = outcome(end, result)
        result = None           # what it shares with the arguments goes back before it is told
    except BaseException as error:
        end.current = NULL
        if end.fork_generation != fork_generation:
            leave_forked_child(error)
        if not unpickled:
            _remote.explain(error)
        kind = CP_ERROR
        end.failed = True
        cp_bump(&end.tally.failed, 1)
        if PyErr_GivenExceptionMatches(error, end.leave_on):
            end.leaving = end.errands = True
        data = error_outcome(end, error)
    if data is not None:
        payload_out = wire_of(data, &length, &flags)
    worker_reserve(end, length, &out)
    if not cp_claim_finish(shared, tid):
        c_exit(1)       # the parent has killed this task: the outcome is decided
    if length:
        memcpy(out + 1, payload_out, length)
    lend_to_parent(end, data)
    worker_publish(end, out, kind, flags, shared)
    end.tasks_done += 1
    return 0


cdef int refuse_task(WorkerEnd end, cp_frame *shared) except -1:
    """It has expired."""
    cdef cp_frame *out = NULL
    worker_reserve(end, 0, &out)
    if not cp_claim_finish(shared, cp_claim_tid(cp_peek(&shared.claim))):
        c_exit(1)
    worker_publish(end, out, CP_EXPIRED, 0, shared)
    return 0


cdef object call_target(WorkerEnd end, cp_frame *frame, const uint8_t *payload, bint *unpickled):
    target = args = kwargs = None
    if frame.flags & CP_IN_ARENA:
        args = delivery_load(end.codec, received(end.arguments, <const cp_parcel *> payload))
    elif frame.length:
        args = decode(end.codec, payload, frame.length)
    else:
        args = ()
    if frame.flags & CP_TARGET:
        target, args, kwargs = args
    else:
        if frame.flags & CP_KWARGS:
            args, kwargs = args
        target = known_function(end, frame.fid)
    if frame.flags & CP_MANY:
        args = (target, args)
        if frame.flags & CP_EACH:
            target = _functions.starmap_each
        else:
            target = _functions.starmap_all if frame.flags & CP_STAR else _functions.map_all
    unpickled[0] = True
    if kwargs is None:
        return PyObject_Call(target, args, NULL)
    return PyObject_Call(target, args, <PyObject *> kwargs)


cdef object known_function(WorkerEnd end, uint32_t fid):
    """Unpickled at its first use; a load that fails is tried again by the next task."""
    cdef tuple entry = <tuple> end.functions[fid % CP_FUNCTIONS]
    if entry is None or entry[0] != fid:
        raise SystemError(f"function {fid} was never sent")
    target = entry[2]
    if target is None:
        target = _loads(entry[1])
        end.functions[fid % CP_FUNCTIONS] = (fid, entry[1], target)
    return target


cdef object outcome(WorkerEnd end, object result):
    """The pickled result (None for None), or raises what the task fails with."""
    if end.fork_generation != fork_generation:
        leave_forked_child(None)
    if result is None:
        return None
    if isinstance(result, _einfo.ExceptionInfo):
        raise _remote.ReturnedError(result)
    try:
        data = encode(end.codec, result)
    except Exception as error:
        raise _remote.encoding_error(error, result)
    return fitted(end.codec, end.results, data)


cdef object error_outcome(WorkerEnd end, object error):
    try:
        return fitted(end.codec, end.results, _remote.dump_error(error))
    except Exception as again:      # no memory for so long an error: a shorter one
        return _remote.dump_error(_remote.shortened(again))


cdef const void *wire_of(object data, uint64_t *length, uint16_t *flags) noexcept:
    """What the frame holds of what `fitted` returned."""
    if type(data) is Parcel:
        flags[0] = CP_IN_ARENA
        length[0] = sizeof(cp_parcel)
        return &(<Parcel> data).wire
    flags[0] = 0
    length[0] = <uint64_t> PyBytes_GET_SIZE(data)
    return PyBytes_AS_STRING(data)


cdef inline void lend_to_parent(WorkerEnd end, object data) noexcept:
    if type(data) is Parcel:
        (<Parcel> data).extent.lent_to = <void *> end


cdef void worker_hears_returns(void *owner) noexcept:
    """Hears of the extents that are given back behind tasks that still wait; else as
    many would be in use as tasks have been queued."""
    cdef WorkerEnd end = <WorkerEnd> owner
    cdef cp_frame frame
    while cp_ring_look_ahead(&end.submission, &end.heard, &frame):
        if frame.kind == CP_GIVE_BACK:
            arena_given_back(end.results, frame.fid, owner)


cdef void worker_give_back(void *owner, uint32_t number) noexcept:
    """Tells the parent that an extent of its is used no more; at any point outside of
    the writing of a frame, also while objects are destroyed."""
    cdef WorkerEnd end = <WorkerEnd> owner
    if end.fork_generation != fork_generation:
        return
    if not worker_tells(end, CP_GIVE_BACK, number):
        end.owed.append(number)
        end.errands = True


cdef bint worker_has_to_leave(WorkerEnd end) except -1:
    """Does what is rarely to do between two tasks."""
    if end.leaving:
        if not end.told:
            end.told = True
            worker_say(end, CP_LEAVING, None)
        return True
    while end.owed:
        if not worker_tells(end, CP_GIVE_BACK, end.owed[len(end.owed) - 1]):
            return False
        end.owed.pop()
    end.errands = False
    return False


cdef bint worker_tells(WorkerEnd end, int kind, uint32_t number) noexcept:
    """At any point outside of the writing of a frame. False: the ring has no room now."""
    cdef cp_frame *out = NULL
    if cp_ring_reserve(&end.completion, 0, &out) != CP_FRAME:
        return False
    out.kind = <uint16_t> kind
    out.flags = 0
    out.fid = number
    cp_ring_publish(&end.completion)
    if end.current == NULL or kind != CP_GIVE_BACK:     # else its result comes soon
        cp_bell_ring_if_parked(&end.parent)
    return True


cdef int leave_forked_child(object error) except -1:
    """A child that a task forked has come back here: the rings are not its."""
    c_exit(_remote.exit_status(error))
    return 0


cdef int worker_reserve(WorkerEnd end, uint64_t length, cp_frame **out) except -1:
    cdef cp_room room
    cdef int got
    while True:
        got = cp_ring_reserve(&end.completion, length, out)
        if got == CP_FRAME:
            return 0
        if got == CP_GARBAGE:
            raise SystemError("the completion ring is corrupt")
        room.producer = &end.completion
        room.need = cp_producer_need(&end.completion, cp_frame_bytes(length))
        worker_wait(end, cp_has_room, &room, -1)


cdef inline void worker_publish(WorkerEnd end, cp_frame *out, int kind, uint16_t flags, cp_frame *task) noexcept:
    """`task`: the submission frame that this answers, or NULL."""
    out.kind = <uint16_t> kind
    out.flags = flags
    out.fid = end.pace
    if task != NULL:
        cp_poke(&out.claim, cp_claim_tid(cp_peek(&task.claim)))
        cp_poke(&out.start, cp_peek(&task.start))
    cp_ring_publish(&end.completion)
    cp_bell_ring_if_parked(&end.parent)


cdef int worker_say(WorkerEnd end, int kind, bytes data) except -1:
    cdef cp_frame *out = NULL
    cdef uint16_t flags = 0
    cdef uint64_t length = 0
    cdef const void *payload = NULL
    cdef object fit = None
    if data is not None:
        fit = fitted(end.codec, end.results, data)
        payload = wire_of(fit, &length, &flags)
    worker_reserve(end, length, &out)
    if length:
        memcpy(out + 1, payload, length)
    lend_to_parent(end, fit)
    worker_publish(end, out, kind, flags, NULL)
    return 0


cdef int complete_all(WorkerEnd end) except -1:
    cdef cp_frame frame
    cdef cp_frame *shared
    cdef cp_frame *out = NULL
    cdef uint64_t position
    cdef const uint8_t *payload
    cdef int done = 0
    while cp_ring_next(&end.submission, &frame, &position, &payload) == CP_FRAME:
        shared = cp_ring_at(end.submission.base, end.submission.size, position)
        if frame.kind == CP_TASK and cp_claim_take(shared, cp_claim_tid(cp_peek(&frame.claim))):
            worker_reserve(end, 0, &out)
            cp_claim_finish(shared, cp_claim_tid(cp_peek(&frame.claim)))
            worker_publish(end, out, CP_RESULT, 0, shared)
            done += 1
        cp_ring_advance(&end.submission, &frame)
    release_room(end)
    return done
