# What holds whenever the state is whole. Debug builds assert it where much has been
# moved; tests ask by Core.check_invariants().

cdef int check_invariants(Core core) except -1:
    """AssertionError that says what is wrong."""
    cdef Channel channel
    cdef Waiter *w
    cdef AsyncResult job
    cdef PyObject *at
    cdef uint64_t in_journals = 0, queued = 0, foreign = 0, in_outbox = 0
    for channel in core.table.channels:
        in_journals += checked_journal(channel)
    at = core.backlog.jobs.first
    while at != NULL:
        if (<AsyncResult> at).state != PENDING or (<AsyncResult> at).channel is not None:
            raise AssertionError(f"{<AsyncResult> at!r} stands in the backlog")
        queued += 1
        at = (<AsyncResult> at).next
    if queued != core.backlog.jobs.count:
        raise AssertionError(f"the backlog of {queued} jobs counts {core.backlog.jobs.count}")
    for job in core.foreign.values():
        foreign += job.state == PENDING
    if core.in_flight != in_journals + queued + foreign:
        raise AssertionError(
            f"{core.in_flight} in flight: {in_journals} in journals, {queued} in the backlog, "
            f"{foreign} foreign")
    at = core.outbox.first
    while at != NULL:
        in_outbox += (<AsyncResult> at).state == COLLECTED
        at = (<AsyncResult> at).next
    if in_outbox > core.waiting_callbacks:
        raise AssertionError(f"{in_outbox} wait for their callbacks, counted {core.waiting_callbacks}")
    if not core.due.count <= core.untold <= core.waiting_callbacks:
        raise AssertionError(
            f"{core.due.count} due to be told, counted {core.untold}, {core.waiting_callbacks} undelivered")
    if core.submitted != core.in_flight + core.collected or core.collected != core.reaped + core.waiting_callbacks:
        raise AssertionError(
            f"{core.submitted} submitted, {core.in_flight} in flight, {core.collected} collected, "
            f"{core.waiting_callbacks} undelivered, {core.reaped} reaped")
    if core.succeeded + core.failed > core.collected or core.succeeded + core.failed < core.reaped:
        raise AssertionError(f"{core.succeeded} succeeded, {core.failed} failed, {core.reaped} reaped")
    return 0


cdef uint64_t checked_journal(Channel channel) except? UNLIMITED:
    """How many jobs of it are in flight."""
    cdef uint64_t at, entries = 0, in_flight = 0
    cdef int64_t position = -1
    cdef PyObject *job
    for at in range(channel.journal_head, channel.journal_tail):
        if <int64_t> channel.journal[at & channel.journal_mask].position <= position:
            raise AssertionError("the journal is out of order")
        position = <int64_t> channel.journal[at & channel.journal_mask].position
        job = channel.journal[at & channel.journal_mask].job
        if job != NULL:
            entries += 1
            in_flight += (<AsyncResult> job).state == PENDING
            if (<AsyncResult> job).state == PENDING and (<AsyncResult> job).channel is not channel:
                raise AssertionError(f"{<AsyncResult> job!r} stands in the journal of another worker")
    if entries != channel.load:
        raise AssertionError(f"a load of {channel.load}, {entries} entries in the journal")
    return in_flight


cdef inline void in_debug_builds(Core core) noexcept:
    if CP_DEBUG:
        try:
            check_invariants(core)
        except AssertionError as error:
            _errors.report_unraisable(str(error))
            c_exit(70)          # nothing that follows could be trusted
