# Tasks that wait at a busy worker, or at one that gets no CPU, go elsewhere: to one that
# is idle, or while there is none to those that take their turns.

cdef enum:
    TURNS = 8                   # ended by each of the others, and it none: it is overtaken,
    OVERTAKEN_NS = 2000000      # if that was no burst
    LONG_NS = 50000             # a task that has run so long may run much longer
    MANY_QUEUED = 128           # behind so many even short tasks make a wait


cdef void rebalance(Core core, bint moves) noexcept:
    """What waits at the busiest worker goes elsewhere, if another is idle. `moves`: a
    task has just been collected."""
    cdef Table table = core.table
    cdef Channel channel, busiest = None
    cdef AsyncResult job
    cdef uint64_t start
    cdef uint32_t i, most = 1
    core.imbalanced = False
    if core.in_flight <= 1 or not somebody_idle(table):
        return
    for i in range(table.count):
        channel = <Channel> table.items[i]
        if channel.load > most:
            busiest = channel
            most = channel.load
    if busiest is None:
        return
    if most < MANY_QUEUED:
        if moves and core.turns == busiest.turn:
            core.imbalanced = True      # it has just begun its next one
            return
        job = journal_first(busiest)
        start = cp_peek(&frame_of(job).start)
        if (cp_observe(&frame_of(job).claim) != cp_claim(job.number, CP_CLAIMED)
                or cp_now() - start < LONG_NS):
            core.imbalanced = True      # look again soon
            return
    take_back(core, busiest, most - 1 if most < MANY_QUEUED else most // 2)
    refill(core)


cdef void hold_the_overtaken(Core core) noexcept:
    """What waits behind a task that runs for long goes to workers that take their turns
    meanwhile, and new tasks do, too. Counted in tasks that have ended, so that it costs
    nothing in between and means the same for short tasks and for longer ones: among
    tasks of one length nobody is ever overtaken."""
    cdef Table table = core.table
    cdef uint64_t turns = TURNS * table.count
    cdef Channel channel
    cdef AsyncResult job
    cdef uint64_t now = 0
    cdef uint32_t i
    core.overtaking = core.turns + turns
    for i in range(table.count):
        channel = <Channel> table.items[i]
        if channel.load == 0 or channel.held or core.turns - channel.turn < turns:
            continue
        job = journal_first(channel)
        now = now or cp_now()
        if (job is None or cp_observe(&frame_of(job).claim) != cp_claim(job.number, CP_CLAIMED)
                or now - cp_peek(&frame_of(job).start) < OVERTAKEN_NS):
            continue
        channel.held = True
        take_back(core, channel, 0xffffffff)


cdef inline bint somebody_idle(Table table) noexcept:
    cdef uint32_t i
    for i in range(table.count):
        if (<Channel> table.items[i]).open and (<Channel> table.items[i]).load == 0:
            return True
    return False


cdef void look_at_unclaimed(Core core) noexcept:
    """A worker that has not claimed its next task between two looks is stopped, or
    gets no CPU: what it has goes to those that are idle. One that has passed a task
    without a word about it is no worker of ours."""
    cdef Table table = core.table
    cdef Channel channel
    cdef AsyncResult job
    cdef uint64_t passed
    cdef uint32_t i
    cdef bint was_open
    cdef bint idle = somebody_idle(table)
    for i in range(table.count):
        channel = <Channel> table.items[i]
        passed = cp_observe(&channel.header.submission.head)
        collect_channel(core, channel)      # what it published before it went on
        job = journal_first(channel)
        if job is not None and passed > job.position and not channel.corrupt:
            channel_distrust(channel)
            attention(core)
        if job is None or cp_observe(&frame_of(job).claim) != cp_claim(job.number, CP_READY):
            channel.unclaimed = 0
        elif channel.unclaimed != job.number:
            channel.unclaimed = job.number
        elif idle:
            # closed for as long as the tasks are placed anew, so that they do not come back
            was_open = channel.open
            channel.open = False
            take_back(core, channel, 0xffffffff)
            refill(core)
            channel.open = was_open
