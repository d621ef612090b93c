# What the pool shows of itself, in its segment: counters, workers, names, and what its
# dead workers have counted. Nothing here is read back but to add to it.

cdef inline void show_progress(Core core) noexcept:
    """After a look at the rings, after callbacks, and before everybody sleeps."""
    if core.shown != core.submitted + core.reaped + core.collected:
        show_ledger(core)


cdef void show_ledger(Core core) noexcept:
    cdef cp_status *status = core.status
    core.shown = core.submitted + core.reaped + core.collected
    cp_sequence_open(&status.sequence)
    cp_tell(&status.now.state, <uint64_t> core.state)
    cp_tell(&status.now.limit, core.limit)
    cp_tell(&status.now.submitted, core.submitted)
    cp_tell(&status.now.collected, core.collected)
    cp_tell(&status.now.reaped, core.reaped)
    cp_tell(&status.now.succeeded, core.succeeded)
    cp_tell(&status.now.failed, core.failed)
    cp_tell(&status.now.lost, core.lost)
    cp_tell(&status.now.cancelled, core.cancelled)
    cp_tell(&status.now.expired, core.expired)
    cp_tell(&status.now.callback_errors, core.callback_errors)
    cp_tell(&status.now.in_flight, core.in_flight)
    cp_tell(&status.now.waiting_callbacks, core.waiting_callbacks)
    cp_tell(&status.now.backlog, core.backlog.jobs.count)
    cp_sequence_close(&status.sequence)


cdef inline void show_load(Core core, uint32_t i) noexcept:
    """Of the worker in that place of the table; each word stands for itself."""
    cdef Channel channel = <Channel> core.table.items[i]
    cdef cp_row *row = &core.status.now.rows[i]
    if i < CP_ROWS:
        cp_tell(&row.queued, channel.load)
        cp_tell(&row.given, channel.given)
        cp_tell(&row.done, channel.done)


cdef void show_loads(Core core) noexcept:
    """Nothing has come for a while: what has been given out since is shown, too."""
    cdef uint32_t i
    for i in range(core.table.count):
        show_load(core, i)
    show_progress(core)


cdef void show_workers(Core core) noexcept:
    """Who they are: after the table has changed, or one of them its stage."""
    cdef cp_status *status = core.status
    cdef Table table = core.table
    cdef Channel channel
    cdef cp_row *row
    cdef uint32_t i
    cp_sequence_open(&status.sequence)
    cp_tell(&status.now.at, cp_now())
    cp_tell(&status.now.processes, core.processes)
    cp_tell(&status.now.workers, min(table.count, CP_ROWS))
    for i in range(min(table.count, CP_ROWS)):
        channel = <Channel> table.items[i]
        row = &status.now.rows[i]
        cp_tell(&row.pid, <uint64_t> channel.pid)
        cp_tell(&row.fd, <uint64_t> channel.segment_fd)
        cp_tell(&row.index, channel.index)
        cp_tell(&row.stage, stage_of(channel))
        cp_tell(&row.started, channel.started)
        show_load(core, i)
    cp_sequence_close(&status.sequence)
    show_ledger(core)


cdef uint64_t stage_of(Channel channel) noexcept:
    if channel.corrupt:
        return CP_CORRUPT
    if channel.leaving or channel.wants_to_leave:
        return CP_LEAVES
    if channel.open:
        return CP_SERVING
    return CP_SPARE if channel.spare else CP_STARTING


cdef int show_name(Core core, Function function) except -1:
    cdef cp_name *name = &core.status.names[function.fid % CP_FUNCTIONS]
    cdef bytes text = _remote.full_name(function.target).encode(errors="replace")[:CP_NAME]
    cp_poke(&name.fid, 0)
    memset(name.name, 0, CP_NAME)
    memcpy(name.name, PyBytes_AS_STRING(text), <size_t> PyBytes_GET_SIZE(text))
    cp_tell(&name.fid, function.fid)
    return 0


cdef int show_story(Core core, bytes story) except -1:
    cdef cp_status *status = core.status
    cdef uint64_t length = <uint64_t> PyBytes_GET_SIZE(story)
    if length > CP_STORY:
        raise ValueError("the story is too long")
    cp_sequence_open(&status.sequence)
    memcpy(status.story, PyBytes_AS_STRING(story), length)
    cp_tell(&status.told, length)
    cp_sequence_close(&status.sequence)
    return 0


cdef void inherit_tallies(Core core, Channel channel) noexcept:
    """What a dead worker has counted stays, if it can be: it may have written anything."""
    cdef cp_shown *shown = channel.shown
    cdef cp_tally *tally
    cdef uint64_t count = 0
    cdef uint32_t i
    for i in range(CP_TALLIES):
        tally = &shown.tallies[i]
        if cp_peek(&tally.fid) or i == 0:
            count += cp_tally_count(tally)
    if count <= channel.given:
        for i in range(CP_TALLIES):
            tally = &shown.tallies[i]
            if cp_peek(&tally.fid) or i == 0:
                cp_tally_add(tally_for(core.status.ended, cp_peek(&tally.fid)), tally)
    cp_bump(&core.status.recovered, 1)


cdef cp_tally *tally_for(cp_tally *tallies, uint64_t fid) noexcept:
    """The function's, if there is still one for it; else the one of all others."""
    cdef uint32_t i
    if fid:
        for i in range(1, CP_TALLIES):
            if cp_peek(&tallies[i].fid) == 0:
                cp_poke(&tallies[i].fid, fid)
            if cp_peek(&tallies[i].fid) == fid:
                return &tallies[i]
    return &tallies[0]
