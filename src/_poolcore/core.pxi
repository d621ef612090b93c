# The core of one pool in the parent: its making and its end, and what Python may ask
# of it. Its fields stand in _poolcore.pxd, the verbs in files of their own.
#
# The GIL is the lock. Between two points where it may be given up (a park, user
# code) the state is whole; critical sections allocate nothing that the cycle
# collector tracks and drop no reference to the user's objects.

@cython.final
@cython.no_gc_clear      # payloads know it until the end
cdef class Core:
    def __cinit__(self, limit, int callbacks_in, bint overridden, logger, uint64_t last_tid,
                  uint64_t ring_size=CP_RING_DEFAULT, pickler=pickle, uint64_t threshold=UNLIMITED,
                  bint copies=False):
        if CP_DEBUG:
            debug_alive["cores"] += 1
        self.segment_fd = self.supervisor_bell = -1
        self.bell[0] = self.bell[1] = self.reaper.bell[0] = self.reaper.bell[1] = -1
        self.loop.bell[0] = self.loop.bell[1] = self.loop.fd = -1
        self.fork_generation = fork_generation
        self.limit = UNLIMITED if limit is None else limit
        self.callbacks_in = callbacks_in
        self.overridden = overridden
        self.given_logger = logger
        self.foreign = {}
        self.foreign_results = {}
        self.poller = _foreign.ForeignPoller()
        self.last_number = last_tid
        self.ring_size = ring_size
        self.functions = FunctionTable.__new__(FunctionTable)
        self.functions.by_id = {}
        self.deadlines = Deadlines.__new__(Deadlines)
        self.deadlines.expiring = []
        self.codec = Codec(pickler, cp_ring_longest(ring_size), threshold)
        self.copies = copies
        self.max_bytes = self.deadlines.shortest = self.deadlines.next_check = UNLIMITED
        self.look_after = TICK_NS
        self.processes = 0xffffffff     # until the supervisor says
        self.sentences = []
        self.table = Table([])
        self.set_patience(2000, 100)
        with _forkguard.lock:
            check_fd(cp_bell_create(self.bell))
            check_fd(cp_bell_create(self.reaper.bell))
            self.segment_fd = check_fd(cp_shm_create(b"celery_pool", CP_ARENA_SIZE))
            _forkguard.guard(self)
        self.control = <cp_control *> map_segment(self.segment_fd, CP_ARENA_AT, PROT_READ | PROT_WRITE)
        cp_shm_keep_private(self.control, CP_ARENA_AT)
        self.control.magic = CP_MAGIC
        self.control.abi = CP_ABI
        self.control.frame_size = sizeof(cp_frame)
        self.status = <cp_status *> (<uint8_t *> self.control + CP_PAGE)
        self.arguments = Arena(self.segment_fd, CP_ARENA_AT)
        self.arguments.owner = <void *> self
        self.arguments.on_kept = core_keeps

    def __dealloc__(self):
        if CP_DEBUG:
            debug_alive["cores"] -= 1
        cdef Channel channel
        if self.arguments is not None:
            self.arguments.fd = -1
            self.arguments.on_kept = NULL
        PyMem_Free(self.loop.waiter)
        if self.table is not None:
            for channel in self.table.channels:
                channel.core = NULL
        if self.fork_generation != fork_generation:
            return
        if self.control != NULL:
            munmap(self.control, CP_ARENA_AT)
        close_fds(self.segment_fd, self.bell)
        close_fds(-1, self.reaper.bell)
        close_fds(self.loop.fd, self.loop.bell)

    def worker_fds(self):
        """(segment, doorbell to ring): what every worker needs of this."""
        return self.segment_fd, self.bell[1]

    def owned_fds(self):
        """Descriptors that no other process shall keep."""
        fds = {self.segment_fd, *self.bell, *self.reaper.bell, *self.loop.bell, self.loop.fd}
        for channel in self.table.channels:
            fds |= channel.owned_fds()
        fds.discard(-1)
        return fds

    @property
    def limit(self):
        return None if self.limit == UNLIMITED else self.limit

    @limit.setter
    def limit(self, value):
        self.limit = UNLIMITED if value is None else value
        measure_depth(self)
        notify(self)

    @property
    def logger(self):
        """Logging is imported when there is something to say."""
        if self.given_logger is None:
            import logging
            self.given_logger = logging.getLogger("celery_pool")
        return self.given_logger

    @logger.setter
    def logger(self, logger):
        self.given_logger = logger

    @property
    def last_tid(self):
        return self.last_number

    @property
    def backlog(self):
        """Jobs that no ring has room for."""
        return self.backlog.jobs.count

    @property
    def running(self):
        """Whether it takes tasks."""
        return self.state == RUNNING

    @property
    def pending(self):
        """Jobs whose callbacks have not returned."""
        return self.in_flight + self.waiting_callbacks

    @property
    def channels(self):
        return list(self.table.channels)

    def set_patience(self, uint64_t spin_ns, uint32_t yields):
        """How long a waiting caller spins, and how often it yields, before it parks."""
        cp_patience_init(&self.waiting.patience, spin_ns, yields)
        cp_patience_init(&self.reaper.patience, spin_ns, yields)

    def attach(self, Channel channel):
        """The worker is about to be started: its completions are looked at."""
        channel.core = <void *> self
        channel.results.copies = self.copies
        set_channels(self, self.table.channels + [channel])

    def ready(self, Channel channel not None):
        """The worker is ready for tasks; it gets some now, or when another one has
        left the ranks; none if it has been told to leave meanwhile."""
        if not channel.corrupt and not channel.leaving:
            channel.spare = True
            open_spare(self)
        refill(self)
        rebalance(self, False)
        if self.imbalanced:
            kick_leader(self)       # it looks again soon
        notify(self)

    def stop_worker(self, Channel channel not None):
        """Asks a worker to leave after the tasks it has; whether it has been told."""
        channel_stop(channel)
        return channel.leaving

    def report_doomed(self, Channel channel not None):
        """The task that the worker runs, whose end is decided, ends now; the worker keeps its
        seat until it is dead."""
        report_doomed(self, channel)

    def retire(self, Channel channel not None):
        """Asks a worker to leave after the task that it runs; the others it has
        go elsewhere."""
        retire(self, channel)

    def doom_running(self, Channel channel not None, reason):
        """Decides that the task that the worker runs ends with `reason` (class,
        arguments by name, without the tid), whatever it does from now on; the caller kills
        the worker. Returns (tid, target) of the task as task_of() does; None: it runs none."""
        cdef AsyncResult job
        collect(self, True)
        job = journal_first(channel)
        return job_record(job) if job is not None and doom(self, job, reason) else None

    def task_of(self, Channel channel not None):
        """(tid, target) of the task that the worker has claimed and not ended, the target
        being None if it travelled with the task; None if there is none. For the record: the
        worker may lie."""
        collect(self, True)
        return task_of(channel)

    def check_limits(self):
        """Looks at the time limits: passes sentences on tasks that are past theirs.
        Returns the seconds to the next look, or None."""
        return check_limits(self)

    def take_sentences(self):
        """(channel, what, (tid, target), signal, grace) of workers that the caller signals or
        kills: what is "soft_limit", "soft_limit_again", "hard_limit" or "terminated"; by the
        last two the task's outcome is decided. By then it may have ended. A grace of None is
        the pool's."""
        sentences = self.sentences
        self.sentences = []
        return sentences

    def prune(self, bint everything=False):
        """Gives memory back that has not been used for a while, or all that is not in
        use. Returns the seconds to the next time, or None: nothing is kept."""
        return prune(self, cp_now() + (KEPT_NS if everything else 0))

    def give_up_pending(self):
        """Decides the end of everything in flight; the caller kills the workers.
        Returns the metas of (tasks that will never start, tasks that are running)."""
        return give_up_pending(self)

    def pending_jobs(self):
        """A list of what is in flight and not collected, in no particular order;
        without foreign results."""
        return pending_jobs(self)

    def set_limits(self, soft, hard, max_bytes, *, bint wake_at_first_task, soft_again=None):
        """Pool-wide limits: seconds or None, bytes or None.

        :param wake_at_first_task: rings the supervisor when work begins.
        :param soft_again: seconds after which a soft limit is raised again; None: never."""
        self.deadlines.limits = limits_of(soft, hard, 0)
        self.deadlines.soft_again = nanoseconds("soft_limit_repeat", soft_again) or NEVER_AGAIN_NS
        self.max_bytes = UNLIMITED if max_bytes is None else max_bytes
        self.wake_at_first_task = wake_at_first_task

    def started(self):
        """The workers are ready, or the pool does not wait for them."""
        if self.state == STARTING:      # else it is broken already
            self.state = RUNNING
            show_ledger(self)
        if self.loop.fd >= 0:
            watch(self)

    def break_pool(self, reason):
        """No new tasks: they are refused with this (class, arguments by name)."""
        self.broken = reason
        self.state = BROKEN
        show_ledger(self)

    # for the supervisor, the reaper thread and the other facades

    def state_name(self):
        return state_name(<uint64_t> self.state)

    def show_workers(self):
        """To onlookers, after one of them has changed its stage."""
        show_workers(self)

    def show_story(self, bytes story not None):
        """To onlookers: what changes rarely."""
        show_story(self, story)

    def trace(self, until):
        """Workers record their tasks until then, CLOCK_MONOTONIC ns; None: for ever."""
        cp_poke(&self.control.trace_until, UNLIMITED if until is None else until)

    def check_process(self):
        """WrongProcess in a forked child."""
        check_process(self)

    def collect(self):
        """Takes finished tasks off the rings; returns how many."""
        check_process(self)
        n = collect(self, True)
        notify(self)
        return n

    def wait_drained(self, timeout=None):
        """Waits until nothing is in flight and all callbacks have returned
        (inside a callback: nothing in flight). Returns whether that is so."""
        check_process(self)
        return wait_for(self, WAIT_DRAINED, None, 0, deadline_after(timeout)) == 1

    @property
    def inside_call(self):
        """Whether the calling thread is inside a callback or, in a signal handler,
        inside a wait of this pool."""
        cdef Waiter *w = self.waiting.first
        while w != NULL:
            if w.thread == PyThread_get_thread_ident():
                return True
            w = w.next
        return inside_dispatch(self)

    @property
    def waiters(self):
        """How many threads wait, those that stand by (reaper, event loop) included."""
        cdef Waiter *w = self.waiting.first
        cdef uint32_t count = 0
        while w != NULL:
            count += 1
            w = w.next
        return count

    @property
    def caller_dispatches(self):
        """Whether callbacks run inside calls of the pool only."""
        return self.callbacks_in == CALLER_ONLY

    @property
    def inside_callback(self):
        """Whether the calling thread runs callbacks of this pool."""
        return inside_dispatch(self)

    def run_callbacks(self, callbacks, argument, meta):
        """Calls each with (argument, meta); exceptions as in dispatch."""
        callbacks = checked_callables(self, callbacks, "callback(outcome, meta)")
        if callbacks is not None:
            run_by_hand(self, callbacks, argument, {} if meta is None else meta)

    def check_invariants(self):
        """AssertionError if the state is not what it has to be between two calls."""
        check_invariants(self)

    def take_out(self, tid, ret_val):
        """Whether `tid` was still in the queue (or is being delivered); it is not,
        afterwards. A task in flight ends with `ret_val` as its outcome; what its
        worker makes of it is ignored."""
        check_process(self)
        return take_out(self, tid, ret_val)

    def add_ended(self, error, callbacks, errbacks, meta, keeper):
        """A job that has ended already, with `error`, or with None as its result; its
        callbacks are dispatched like those of every other. Never waits for a slot."""
        return submit_ended(self, error, checked_callables(self, callbacks, "callback(result, meta)"),
                            checked_callables(self, errbacks, "errback(exc, meta)"), meta, keeper, 0)

    def recover(self, Channel channel not None, reason, bint requeue=True):
        """Gives up a worker that is dead for certain.

        `reason` is (exception class, arguments by name, without the tid) for the task that
        it was running. Tasks that had not started go to other workers, unless
        `requeue` is false: then they end with the same reason. Returns how many
        have ended so."""
        return recover(self, channel, reason, requeue)

    def fail_rest(self, reason):
        """Ends all jobs that no worker has been given, foreign ones too."""
        fail_rest(self, reason)

    def wake(self):
        """Makes everyone who waits look again; after a change of the state."""
        show_ledger(self)
        notify(self)
        kick_leader(self)

    # for event loops

    def fileno(self):
        """The descriptor that is readable from when a task has ended until reap()."""
        check_process(self)
        return watched_fd(self)

    @property
    def crowded(self):
        """Whether somebody waits in the loop for a slot: who comes now waits behind."""
        return self.loop.crowded

    @crowded.setter
    def crowded(self, bint crowded):
        self.loop.crowded = crowded

    def hush(self):
        """The loop looks by itself, by poll(), until listen(): its descriptor need
        not tell it anything."""
        hush(self)

    def listen(self):
        """The loop may go to sleep at its descriptor, if it has asked for one."""
        if self.loop.waiter != NULL:
            listen(self)

    def poll(self):
        """As reap(timeout=None), but leaves the descriptor as it is."""
        cdef uint64_t before = self.reaped
        check_process(self)
        reap_inline(self)
        return self.reaped - before

    def reaper_loop(self):
        """Body of the background reaper; returns after stop_reaper()."""
        run_reaper(self)

    def stop_reaper(self):
        self.reaper.stop = True
        call_reaper(self)
