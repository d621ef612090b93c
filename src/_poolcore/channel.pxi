# The parent's end of one worker: its segment and its rings. Nothing here trusts
# the segment; what the worker was given stands in the journal.

@cython.final
@cython.no_gc_clear      # what has been delivered knows it until the end
cdef class Channel:
    """One worker as the parent sees it. Made by the supervisor, once a worker's life."""

    def __cinit__(self, uint64_t ring_size, max_tasks=None, uint32_t index=0):
        if CP_DEBUG:
            debug_alive["channels"] += 1
        self.segment_fd = self.bell[0] = self.bell[1] = -1
        self.fork_generation = fork_generation
        self.index = index
        self.most = self.nearly = UNLIMITED
        if max_tasks is not None:
            self.most = max_tasks
            self.nearly = self.most - (self.most // 10 or 1)
        if ring_size < 4 * CP_PAGE or ring_size & (ring_size - 1) or ring_size > 1 << 30:
            raise ValueError("ring_size must be a power of two from 16 KiB to 1 GiB")
        self.started = cp_now()
        self.size = CP_PAGE + 2 * ring_size + CP_SHOWN_SIZE
        self.segment_fd = check_fd(cp_shm_create(b"celery_pool worker", CP_ARENA_SIZE))
        check_fd(cp_bell_create(self.bell))
        cdef uint8_t *base = <uint8_t *> map_segment(self.segment_fd, self.size, PROT_READ | PROT_WRITE)
        self.header = <cp_header *> base
        cp_shm_keep_private(base, self.size)
        self.header.magic = CP_MAGIC
        self.header.abi = CP_ABI
        self.header.header_size = sizeof(cp_header)
        self.header.ring_size = ring_size
        cp_producer_init(&self.submission, &self.header.submission, base + CP_PAGE, ring_size)
        cp_consumer_init(&self.completion, &self.header.completion, base + CP_PAGE + ring_size, ring_size)
        self.shown = <cp_shown *> (base + CP_PAGE + 2 * ring_size)
        self.ringer.epoch = &self.header.worker_epoch
        self.ringer.fd = self.bell[1]
        self.results = PeerArena(self.segment_fd, self.size)
        self.results.own_fd = True
        self.results.owner = <void *> self
        self.results.give_back = channel_give_back
        self.results.on_kept = channel_keeps
        journal_begin(self, ring_size)
        self.known = <uint32_t *> PyMem_Calloc(CP_FUNCTIONS, sizeof(uint32_t))
        if self.known == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if CP_DEBUG:
            debug_alive["channels"] -= 1
        journal_end(self)
        PyMem_Free(self.known)
        PyMem_Free(self.owed)
        if self.fork_generation != fork_generation:
            return      # a forked child never had the mapping, and has closed the descriptors
        if self.header != NULL:
            munmap(self.header, self.size)
        if self.results is not None:
            peer_leave(self.results)            # it closes the segment
            self.segment_fd = -1
        close_fds(self.segment_fd, self.bell)

    def worker_fds(self):
        """(segment, doorbell to wait on): what the worker needs of this."""
        return self.segment_fd, self.bell[0]

    def owned_fds(self):
        return {self.segment_fd, self.bell[0], self.bell[1]}

    @property
    def start_error(self):
        """What remote.dump_error made of the initializer's error; None if there is
        none, b"" if it cannot be had."""
        delivery = self.start_failure
        if type(delivery) is Delivery:
            self.start_failure = b""
            try:
                self.start_failure = delivery_bytes(delivery)
            except MemoryError:
                pass
        return self.start_failure

    @property
    def serving(self):
        """It has one of the pool's seats: it takes tasks, or may still run one."""
        return has_seat(self)

    @property
    def load(self):
        """Tasks given to the worker and not yet collected."""
        return self.load

    @property
    def needs_successor(self):
        """It has been given nearly all the tasks of its life."""
        return self.open and self.given >= self.nearly


cdef inline cp_frame *frame_of(AsyncResult job) noexcept:
    """The submission frame of a job that a channel holds."""
    return cp_ring_at(job.channel.submission.base, job.channel.submission.size, job.position)


cdef inline bint frame_stands(AsyncResult job) noexcept:
    """Whether the job's frame is still there: its place may have been reused, and
    what lies there now must not be taken for its claim word."""
    return cp_producer_holds(&job.channel.submission, job.position)


cdef bint channel_push(Channel channel, AsyncResult job) noexcept:
    """Writes the task's frame (and the function's before it, if the worker does
    not know it). False: no room now. Invisible until channel_publish."""
    cdef cp_frame *frame = NULL
    cdef Function function = job.function
    cdef const void *payload
    cdef uint64_t length
    cdef uint32_t place
    if journal_full(channel):
        return False
    if function is not None:
        place = function.fid % CP_FUNCTIONS
        if channel.known[place] != function.fid:
            length = <uint64_t> PyBytes_GET_SIZE(function.pickled)
            if not channel_reserve(channel, length, &frame):
                return False
            frame.kind = CP_DEFINE
            frame.flags = 0
            frame.fid = function.fid
            memcpy(frame + 1, PyBytes_AS_STRING(function.pickled), length)
            channel.known[place] = function.fid
    payload = NULL
    length = 0
    if job.flags & CP_IN_ARENA:
        payload = &(<Parcel> job.payload).wire
        length = sizeof(cp_parcel)
    elif job.payload is not None:
        payload = PyBytes_AS_STRING(job.payload)
        length = <uint64_t> PyBytes_GET_SIZE(job.payload)
    if not channel_reserve(channel, length, &frame):
        return False
    if job.flags & CP_IN_ARENA:
        (<Parcel> job.payload).extent.lent_to = <void *> channel
    frame.kind = CP_TASK
    frame.flags = job.flags
    if job.limits is not None and job.limits.expires:
        cp_poke(&frame.start, job.limits.expires)
    else:
        cp_poke(&frame.start, job.accepted)
        if job.accepted:
            frame.flags |= CP_STAMPED
    frame.fid = function.fid if function is not None else 0
    if length:
        memcpy(frame + 1, payload, length)
    cp_poke(&frame.claim, cp_claim(job.number, CP_READY))
    job.channel = channel
    job.position = channel.submission.tail - frame.size
    journal_push(channel, job)
    return True


cdef inline bint channel_reserve(Channel channel, uint64_t length, cp_frame **frame) noexcept:
    """One line of the ring stays free for STOP."""
    cdef cp_producer *ring = &channel.submission
    cdef uint64_t need = cp_producer_need(ring, cp_frame_bytes(length)) + CP_LINE
    if not cp_producer_fits(ring, need):
        if CP_UNLIKELY(not cp_producer_look(ring)):
            channel_distrust(channel)
            return False
        if not cp_producer_fits(ring, need):
            return False
    return cp_ring_reserve(ring, length, frame) == CP_FRAME


cdef inline void channel_publish(Channel channel) noexcept:
    channel.unpublished = False
    cp_ring_publish(&channel.submission)
    cp_bell_ring_if_parked(&channel.ringer)


cdef void channel_distrust(Channel channel) noexcept:
    """The worker has written garbage: the supervisor shall end it."""
    channel.corrupt = True
    channel.open = False


cdef void channel_stop(Channel channel) noexcept:
    """Asks the worker to leave once it has done what it was given."""
    cdef cp_frame *frame = NULL
    channel.open = False
    if channel.leaving:
        return
    channel.leaving = True
    if cp_ring_reserve(&channel.submission, 0, &frame) == CP_FRAME:
        frame.kind = CP_STOP
        channel_publish(channel)
        cp_bell_ring(channel.ringer.fd)     # in any case: what it says of its sleep may be a lie
    else:
        channel_distrust(channel)       # there always is room, unless it lies


cdef void channel_give_back(void *owner, uint32_t number) noexcept:
    """Tells the worker that an extent of its is used no more; at any point outside
    of the writing of a frame, also while objects are destroyed."""
    cdef Channel channel = <Channel> owner
    cdef uint32_t *wider
    cdef uint32_t room
    if say_given_back(channel, number):
        return
    if channel.owed_count == channel.owed_room:
        room = max(16, 2 * channel.owed_room)
        wider = <uint32_t *> PyMem_Realloc(channel.owed, room * sizeof(uint32_t))
        if wider == NULL:
            return                      # the worker makes itself another one
        channel.owed = wider
        channel.owed_room = room
    channel.owed[channel.owed_count] = number
    channel.owed_count += 1


cdef bint say_given_back(Channel channel, uint32_t number) noexcept:
    """False: the ring has no room now."""
    cdef cp_frame *frame = NULL
    if channel.leaving or channel.corrupt:
        return True                     # it asks no more
    if not channel_reserve(channel, 0, &frame):
        return False
    frame.kind = CP_GIVE_BACK
    frame.flags = 0
    frame.fid = number
    channel_publish(channel)
    return True


cdef void pay_owed(Channel channel) noexcept:
    while channel.owed_count and say_given_back(channel, channel.owed[channel.owed_count - 1]):
        channel.owed_count -= 1


cdef void channel_keeps(void *owner) noexcept:
    if (<Channel> owner).core != NULL:
        core_keeps((<Channel> owner).core)
