# Reading what a pool shows (status.h): its own process by its Core and Channels, any other
# by maps of its segments. What is read may be anything: nothing of it is used as a place
# before it was checked, no loop is longer than the layout allows.

cdef tuple _STAGES = ("starting", "serving", "spare", "leaving", "corrupt")


cdef tuple status_now(const cp_status *status):
    """(counters as observe.pool.Ledger has them, [row, ...]); a row: (pid, fd, index, stage,
    started, queued, given, done)."""
    cdef bytes copy = sequenced(&status.sequence, &status.now, sizeof(cp_now_shown))
    cdef const cp_now_shown *now = <const cp_now_shown *> PyBytes_AS_STRING(copy)
    cdef const cp_row *row
    cdef uint64_t i, stage
    rows = []
    for i in range(min(cp_peek(&now.workers), <uint64_t> CP_ROWS)):
        row = &now.rows[i]
        stage = cp_peek(&row.stage)
        rows.append((
            cp_peek(&row.pid), cp_peek(&row.fd), cp_peek(&row.index),
            _STAGES[stage] if stage < 5 else "corrupt", cp_peek(&row.started),
            cp_peek(&row.queued), cp_peek(&row.given), cp_peek(&row.done)))
    limit = cp_peek(&now.limit)
    return (
        state_name(cp_peek(&now.state)), None if limit == UNLIMITED else limit, cp_peek(&now.processes),
        cp_peek(&now.submitted), cp_peek(&now.collected), cp_peek(&now.reaped),
        cp_peek(&now.succeeded), cp_peek(&now.failed), cp_peek(&now.lost), cp_peek(&now.cancelled),
        cp_peek(&now.expired), cp_peek(&now.callback_errors), cp_peek(&now.in_flight),
        cp_peek(&now.waiting_callbacks), cp_peek(&now.backlog)), rows


cdef bytes sequenced(const cp_word *sequence, const void *words, uint64_t length):
    """A copy of what belongs together; a mixed one if its writer comes to no end (it is stopped)."""
    cdef bytes copy = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> length)
    cdef int tries = 100
    while not cp_sequence_read(sequence, <const cp_word *> words, <uint64_t *> PyBytes_AS_STRING(copy),
                               length // sizeof(cp_word)) and tries:
        tries -= 1
    return copy


cdef bytes status_story(const cp_status *status):
    cdef bytes copy = sequenced(&status.sequence, status.story, CP_STORY)
    return copy[:min(cp_peek(&status.told), <uint64_t> CP_STORY)]


cdef dict status_names(const cp_status *status):
    """{function id: its name}."""
    cdef uint32_t i
    cdef uint64_t fid
    cdef bytes name
    names = {}
    for i in range(CP_FUNCTIONS):
        fid = cp_hear(&status.names[i].fid)
        if fid:
            name = status.names[i].name[:CP_NAME]
            names[fid] = name.rstrip(b"\0").decode(errors="replace")
    return names


cdef list tallies_at(const cp_tally *tallies):
    """[(function id, failed, ns run, ns waited, run, wait), ...] of those that have counted;
    run and wait are the buckets, uint64_t each."""
    cdef const cp_tally *tally
    cdef uint32_t i
    found = []
    for i in range(CP_TALLIES):
        tally = &tallies[i]
        if cp_peek(&tally.fid) or i == 0 and cp_tally_count(tally):
            found.append((
                cp_peek(&tally.fid), cp_peek(&tally.failed), cp_peek(&tally.run_ns), cp_peek(&tally.wait_ns),
                PyBytes_FromStringAndSize(<const char *> tally.run, CP_BUCKETS * sizeof(cp_word)),
                PyBytes_FromStringAndSize(<const char *> tally.wait, CP_BUCKETS * sizeof(cp_word))))
    return found


cdef tuple task_running(const uint8_t *ring, uint64_t ring_size, const cp_shown *shown):
    """(tid, function id, since) of the task that the worker says it runs; None: none, or it has
    just changed."""
    cdef uint64_t running = cp_hear(&shown.running)
    cdef uint64_t position = running - 1, claim, since
    cdef const cp_frame *frame
    cdef uint32_t fid
    if not running or position % CP_LINE or position % ring_size + sizeof(cp_frame) > ring_size:
        return None
    frame = <const cp_frame *> (ring + position % ring_size)
    claim = cp_hear(&frame.claim)
    since = cp_hear(&frame.start)
    fid = (<const volatile_uint32 *> &frame.fid)[0]
    # its frame may have been written over since: then it runs another one
    if cp_claim_state(claim) != CP_CLAIMED or cp_peek(&shown.running) != running or cp_peek(&frame.claim) != claim:
        return None
    return cp_claim_tid(claim), fid, since


cdef tuple records_since(const cp_shown *shown, uint64_t since):
    """(number of the next record, how many of them are lost, [(tid, function id, waited,
    started, ran, failed), ...]); waited: ns, or None: not known."""
    cdef uint64_t recorded = cp_hear(&shown.recorded), at, ran, fid_waited
    cdef uint64_t first = max(since, recorded - min(recorded, <uint64_t> CP_RECORDS - 1))
    cdef const cp_record *record
    found = []
    if first > recorded:        # it goes backwards
        first = recorded
    for at in range(first, recorded):
        record = &shown.records[at % CP_RECORDS]
        ran = cp_hear(&record.ran_failed)
        fid_waited = cp_hear(&record.fid_waited)
        found.append((
            cp_hear(&record.tid), fid_waited >> 40, fid_waited & ((1 << 40) - 1) or None,
            cp_hear(&record.start), ran >> 1, bool(ran & 1)))
    # the writer is one ahead of what it says
    at = cp_hear(&shown.recorded)
    overwritten = min(max(<int64_t> (at + 1 - CP_RECORDS - first), <int64_t> 0), <int64_t> len(found))
    return recorded, (first - since if first > since else 0) + overwritten, found[overwritten:]


def layout():
    """{name: bytes}. Of a pool's segment: `trace_until`, where it says until when tasks are
    recorded (CLOCK_MONOTONIC ns, 8 bytes): who looks from outside may write there, and nowhere
    else; `arena`, where payloads begin. Of a worker's: `shown`, how much is shown behind its rings."""
    return {
        "trace_until": <size_t> &(<cp_control *> NULL).trace_until,
        "arena": CP_ARENA_AT,
        "shown": CP_SHOWN_SIZE,
    }


@cython.final
cdef class PoolMap:
    """A map of the segment of a pool, of whatever process.

    :param fd: of the segment; it stays the caller's.
    :raises ValueError: it is none of this build."""

    def __cinit__(self, int fd):
        cdef cp_control *control
        self.base = map_shown(fd, CP_ARENA_AT)
        control = <cp_control *> self.base
        if control.magic != CP_MAGIC or control.abi != CP_ABI or control.frame_size != sizeof(cp_frame):
            raise ValueError("a pool of another build of celery_pool")
        self.status = <const cp_status *> (self.base + CP_PAGE)

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, CP_ARENA_AT)

    def now(self):
        return status_now(self.status)

    def names(self):
        return status_names(self.status)

    def story(self):
        return status_story(self.status)

    def ended(self):
        return tallies_at(self.status.ended)

    @property
    def recovered(self):
        return cp_hear(&self.status.recovered)


@cython.final
cdef class WorkerMap:
    """A map of the segment of a worker, of whatever process.

    :raises ValueError: it is none of this build."""

    def __cinit__(self, int fd):
        cdef cp_header *header = <cp_header *> map_shown(fd, CP_PAGE)
        cdef bint ours = (header.magic == CP_MAGIC and header.abi == CP_ABI
                          and header.header_size == sizeof(cp_header))
        self.ring_size = header.ring_size
        munmap(header, CP_PAGE)
        if not ours or self.ring_size & (self.ring_size - 1) or not 4 * CP_PAGE <= self.ring_size <= 1 << 30:
            raise ValueError("a worker of another build of celery_pool")
        self.size = CP_PAGE + 2 * self.ring_size + CP_SHOWN_SIZE
        self.base = map_shown(fd, self.size)
        self.shown = <const cp_shown *> (self.base + CP_PAGE + 2 * self.ring_size)

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)

    def running(self):
        return task_running(self.base + CP_PAGE, self.ring_size, self.shown)

    def tallies(self):
        return tallies_at(self.shown.tallies)

    def records(self, uint64_t since):
        return records_since(self.shown, since)


cdef uint8_t *map_shown(int fd, uint64_t length) except NULL:
    """Only what nobody can shorten under us."""
    if not cp_shm_holds(fd, length):
        raise ValueError("no segment of celery_pool")
    return <uint8_t *> map_segment(fd, length, PROT_READ)
