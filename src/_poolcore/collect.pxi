# Collect: takes finished tasks off the rings. Pure C in spirit: it copies bytes
# and links jobs; user code runs in dispatch or get().

cdef uint64_t collect(Core core, bint foreground) noexcept:
    """How many were collected. `foreground`: by a caller, not by the reaper."""
    cdef uint64_t before = core.collected, gathered
    cdef Table table = core.table
    cdef uint32_t i
    for i in range(table.count):
        if cp_consumer_pending(table.rings[i]):
            collect_channel(core, <Channel> table.items[i])
            if table is core.table:
                show_load(core, i)
    if core.turns >= core.overtaking:
        hold_the_overtaken(core)
    if core.backlog.jobs.first != NULL:
        refill(core)
    elif core.imbalanced or core.collected != before:
        rebalance(core, core.collected != before)
    if core.collected != before:
        core.look_after = TICK_NS
        core.reaper.quiet = 0
    show_progress(core)
    if foreground:
        cp_bump(&core.reaper.gathered, core.collected - before)
    gathered = core.collected - before
    if core.grave.first != NULL:
        bury(core)                      # may run destructors, and those may collect
    return gathered


cdef void collect_channel(Core core, Channel channel) noexcept:
    cdef cp_frame frame
    cdef uint64_t position
    cdef const uint8_t *payload
    cdef int got
    while True:
        got = cp_ring_next(&channel.completion, &frame, &position, &payload)
        if got != CP_FRAME:
            break
        if not take_frame(core, channel, &frame, payload):
            got = CP_GARBAGE
            break
        cp_ring_advance(&channel.completion, &frame)
    if CP_UNLIKELY(got == CP_GARBAGE):
        if not channel.corrupt:
            channel_distrust(channel)
            attention(core)
        return
    cp_ring_release(&channel.completion)
    channel.turn = core.turns
    channel.held = False
    channel.depth = short_queue(core, channel.pace)
    if CP_UNLIKELY(channel.owed_count):
        pay_owed(channel)
    cp_bell_ring_if_parked(&channel.ringer)      # it may wait for room
    if CP_UNLIKELY(not channel.open) and channel.load == 0 and not channel.spare:
        open_spare(core)        # it has left its seat
        attention(core)         # from now on it has leave_timeout


cdef bint take_frame(Core core, Channel channel, cp_frame *frame, const uint8_t *payload) noexcept:
    """False: garbage."""
    cdef AsyncResult job
    if (frame.kind == CP_RESULT or frame.kind == CP_ERROR or frame.kind == CP_ACK
            or frame.kind == CP_EXPIRED):
        job = journal_first(channel)
        if job is None or job.number != cp_peek(&frame.claim):
            return False
        if frame.kind == CP_ACK:
            return take_acknowledgement(core, job, cp_peek(&frame.start))
        return take_outcome(core, channel, job, frame, payload)
    if frame.kind == CP_GIVE_BACK:
        return arena_given_back(core.arguments, frame.fid, <void *> channel)
    if frame.kind == CP_HELLO:
        channel.greeted = True
    elif frame.kind == CP_START_FAILED:
        if not take_start_failure(channel, frame, payload):
            return False
    elif frame.kind == CP_LEAVING:
        channel.wants_to_leave = True
    else:
        return False
    attention(core)
    return True


cdef bint take_start_failure(Channel channel, cp_frame *frame, const uint8_t *payload) noexcept:
    cdef cp_parcel wire
    if frame.flags & CP_IN_ARENA and not parcel_of(channel, frame, payload, &wire):
        return False
    try:
        channel.start_failure = (
            received(channel.results, &wire) if frame.flags & CP_IN_ARENA else copied(payload, frame.length))
    except MemoryError:
        channel.start_failure = b""
    return True


cdef bint take_acknowledgement(Core core, AsyncResult job, uint64_t accepted) noexcept:
    if job.state != PENDING:            # on_return was called for it meanwhile
        return True
    if not job.flags & CP_WANT_ACK:
        return False
    job_claimed(core, job, accepted)
    enqueue(core, job)
    return True


cdef bint take_outcome(Core core, Channel channel, AsyncResult job, cp_frame *frame, const uint8_t *payload) noexcept:
    cdef cp_parcel wire
    cdef bint in_arena = frame.flags & CP_IN_ARENA
    if in_arena and not parcel_of(channel, frame, payload, &wire):
        return False
    if frame.kind == CP_ERROR and not frame.length:
        return False
    journal_pop(channel)
    journal_prefetch(channel)
    channel.done += 1
    channel.pace = frame.fid
    core.turns += 1
    if job.state == PENDING:
        if frame.kind == CP_EXPIRED:
            parcel_unread(job)
        drop_arguments(core, job)
        job.pid = <int> channel.pid
        job.channel = None
        job.outcome = RAW_RESULT if frame.kind == CP_RESULT else RAW_ERROR
        if frame.kind == CP_EXPIRED:
            job.outcome = EXPIRED
            core.expired += 1
        if frame.length:
            try:
                job.payload = received(channel.results, &wire) if in_arena else copied(payload, frame.length)
            except MemoryError:
                job.outcome = NO_MEMORY
                job.payload = None
        job_collected(core, job)
    else:                               # on_return was called for it meanwhile
        if in_arena:
            channel_give_back(<void *> channel, wire.number)
        bury_later(core, job)
    Py_DECREF(job)                      # the journal's; a list of ours holds another
    return True
