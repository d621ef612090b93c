# Which worker gets a task, and which workers get tasks.

cdef enum:
    WARM_NS = 10000         # longer than to wake another worker, and its cache
    DEEPEST = 16            # tasks, from where on more in a row save nothing


cdef inline void place(Core core, AsyncResult job) noexcept:
    """To the worker with the least to do, or to the backlog."""
    cdef PyObject *found
    if core.backlog.jobs.first == NULL:
        found = warm_worker(core)
        if found == NULL:
            found = least_loaded(core)
        if found != NULL:
            if channel_push(<Channel> found, job):
                channel_publish(<Channel> found)
                if CP_UNLIKELY((<Channel> found).given >= (<Channel> found).nearly):
                    outgrown(core, <Channel> found)
                return
            if (<Channel> found).corrupt:
                attention(core)
            else:
                channel_publish(<Channel> found)    # the function's frame may have had room
    backlog_append(core, job)


cdef inline PyObject *warm_worker(Core core) noexcept:
    """The one that got the last task, borrowed, if that and what it has besides are short: it
    takes them off the ring in one go, where a worker that is idle would move the ring's
    cache lines for each. NULL: it is not, or the parent is asleep, which then would not
    see at once that the task was a long one after all."""
    cdef Table table = core.table
    cdef Channel channel
    if core.warm >= table.count or cp_peek(&core.control.parent_epoch):
        return NULL
    channel = <Channel> table.items[core.warm]
    if channel.load >= channel.depth or not channel.open or channel.held:
        return NULL
    if channel.load == 0:
        channel.turn = core.turns
    else:
        core.imbalanced = True
    return table.items[core.warm]


cdef inline uint32_t short_queue(Core core, uint32_t pace) noexcept:
    """How many tasks that take `pace` ns a worker does in WARM_NS; 1 at least."""
    if pace > WARM_NS // 2:
        return 1
    return min(WARM_NS // max(pace, 1), core.deepest)


cdef void measure_depth(Core core) noexcept:
    """With few tasks in flight each worker shall have its share of them."""
    cdef uint64_t share = core.limit // max(<uint64_t> core.processes, <uint64_t> 1)
    core.deepest = <uint32_t> min(max(share, <uint64_t> 1), <uint64_t> DEEPEST)


cdef inline PyObject *least_loaded(Core core) noexcept:
    """The worker for the next task, borrowed; its turn begins now if it is idle. NULL: none is
    ready, or they are all overtaken. The first of equals, so that under little load the same
    worker stays warm and the others asleep."""
    cdef Table table = core.table
    cdef PyObject *best = NULL
    cdef uint32_t least = 0xffffffff
    cdef uint32_t i
    cdef Channel channel
    for i in range(table.count):
        channel = <Channel> table.items[i]
        if channel.open and channel.load < least and not channel.held:
            best = table.items[i]
            core.warm = i
            least = channel.load
            if least == 0:
                channel.turn = core.turns
                break
    return best


cdef void outgrown(Core core, Channel channel) noexcept:
    """The worker has been given nearly all tasks of its life, or all."""
    if channel.given >= channel.most:
        channel_stop(channel)
    attention(core)


cdef inline bint has_seat(Channel channel) noexcept:
    """Whether it may run a task, now or later. A worker that leaves keeps its seat until
    it has published its last result; a dead one, or one that lies, until it is recovered:
    so never more tasks run at a time than there are seats."""
    return channel.open or channel.load or channel.corrupt


cdef bint index_in_use(Core core, uint32_t index) noexcept:
    cdef Table table = core.table
    cdef uint32_t i
    for i in range(table.count):
        if (<Channel> table.items[i]).index == index and has_seat(<Channel> table.items[i]):
            return True
    return False


cdef void open_spare(Core core) noexcept:
    """A seat may have become free: a worker that is ready takes it, but never beside one
    of the same index."""
    cdef Table table = core.table
    cdef Channel channel, spare = None
    cdef uint32_t i, seats = 0
    for i in range(table.count):
        channel = <Channel> table.items[i]
        seats += has_seat(channel)
        if channel.spare and spare is None and not index_in_use(core, channel.index):
            spare = channel
    if spare is not None and seats < core.processes:
        spare.spare = False
        spare.open = True
        core.imbalanced = True          # it may find something to take over
        kick_leader(core)
        if CP_UNLIKELY(spare.given >= spare.nearly):
            attention(core)


cdef void refill(Core core) noexcept:
    """From the backlog to the rings, as far as there is room."""
    cdef PyObject *found
    cdef AsyncResult job
    cdef uint32_t i
    cdef bint any_pushed = False
    while core.backlog.jobs.first != NULL:
        found = least_loaded(core)
        if found == NULL:
            break
        job = <AsyncResult> core.backlog.jobs.first
        prefetch_from(job)
        if not channel_push(<Channel> found, job):
            if (<Channel> found).corrupt:
                attention(core)
                continue
            break
        (<Channel> found).unpublished = any_pushed = True
        if CP_UNLIKELY((<Channel> found).given >= (<Channel> found).nearly):
            outgrown(core, <Channel> found)
        backlog_remove(core, job)
    if any_pushed:
        for i in range(core.table.count):
            if (<Channel> core.table.items[i]).unpublished:
                channel_publish(<Channel> core.table.items[i])
