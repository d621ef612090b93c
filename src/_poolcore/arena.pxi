# Payloads too long for a ring, on the side of their writer: each lies in an extent
# of the sparse part of a segment, whose place travels in the frame. The reader
# gives the extent back when it is done with it; it is then used again, since fresh
# pages cost several times what the copy does.

@cython.final
cdef class Arena:
    """The extents of one segment, handed out by its writer; each keeps its number
    and its place for ever."""

    def __cinit__(self, int fd, uint64_t start):
        self.fd = fd
        self.next = start
        self.fork_generation = fork_generation

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.count):
            if self.extents[i].address != NULL and self.fork_generation == fork_generation:
                munmap(self.extents[i].address, self.extents[i].capacity)
            PyMem_Free(self.extents[i])
        PyMem_Free(self.extents)


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Parcel:
    """A payload in an extent of ours; the extent stays until this is dropped and
    its reader, if it has one, has given it back."""

    def __dealloc__(self):
        if self.extent != NULL and self.arena.fork_generation == fork_generation:
            self.extent.held = False
            settle_extent(self.arena, self.extent)


cdef inline uint64_t in_pages(uint64_t length) noexcept:
    return (length + CP_PAGE - 1) & ~<uint64_t> (CP_PAGE - 1)


cdef inline uint64_t aligned(uint64_t length) noexcept:
    return (length + ALIGNMENT - 1) & ~<uint64_t> (ALIGNMENT - 1)


cdef inline uint64_t capacity_for(uint64_t length) noexcept:
    """Of the extent for so long a payload, on either side: whole pages, and one of four
    sizes an octave."""
    cdef uint64_t step = max(CP_PAGE, (<uint64_t> 1 << cp_log2(max(length, CP_PAGE))) // 4)
    return (max(length, CP_PAGE) + step - 1) // step * step


cdef inline uint32_t size_class(uint64_t capacity) noexcept:
    cdef uint32_t octave = cp_log2(capacity)
    return 4 * (octave - 12) + (<uint32_t> (capacity >> (octave - 2)) & 3)


cdef Parcel arena_parcel(Arena arena, uint64_t length):
    """A parcel of `length` bytes, not written yet. MemoryError: no room."""
    cdef Parcel parcel = Parcel.__new__(Parcel)
    cdef uint64_t capacity = capacity_for(length)
    cdef uint32_t kind
    cdef Extent *extent
    if length > CP_ARENA_SIZE // 4:
        raise MemoryError(f"no payload can be {length} bytes long")
    kind = size_class(capacity)
    extent = arena.free[kind]
    if extent == NULL and arena.hear_returns != NULL:
        arena.hear_returns(arena.owner)
        extent = arena.free[kind]
    if extent != NULL:
        arena.free[kind] = extent.below
        if extent.touched:
            unlink_kept(arena, extent)
    else:
        extent = new_extent(arena, capacity)
    extent.held = True
    parcel.arena = arena
    parcel.extent = extent
    parcel.wire.offset = extent.offset
    parcel.wire.length = length
    parcel.wire.stream = length
    parcel.wire.number = extent.number
    return parcel


cdef Extent *new_extent(Arena arena, uint64_t capacity) except NULL:
    cdef Extent *extent
    cdef Extent **wider
    cdef uint32_t room
    if arena.next + capacity > CP_ARENA_SIZE:
        raise MemoryError("too many payloads at once")
    if arena.count == arena.room:
        room = max(16, 2 * arena.room)
        wider = <Extent **> PyMem_Realloc(arena.extents, room * sizeof(void *))
        if wider == NULL:
            raise MemoryError()
        arena.extents = wider
        arena.room = room
    extent = <Extent *> PyMem_Calloc(1, sizeof(Extent))
    if extent == NULL:
        raise MemoryError()
    extent.offset = arena.next
    extent.capacity = capacity
    extent.number = arena.count
    arena.extents[arena.count] = extent
    arena.count += 1
    arena.next += capacity
    return extent


cdef void settle_extent(Arena arena, Extent *extent) noexcept:
    """If nobody uses it any more, it is free; what has pages is kept for a while."""
    cdef uint32_t kind
    if extent.held or extent.lent_to != NULL or arena.fd < 0:
        return
    kind = size_class(extent.capacity)
    extent.below = arena.free[kind]
    arena.free[kind] = extent
    if not extent.touched:
        return
    extent.freed_at = cp_now()
    extent.newer = NULL
    extent.older = arena.newest
    if arena.newest != NULL:
        arena.newest.newer = extent
    else:
        arena.oldest = extent
    arena.newest = extent
    arena.kept += extent.touched
    while arena.kept > KEPT_BYTES and arena.oldest != arena.newest:
        let_pages_go(arena, arena.oldest)
    if arena.on_kept != NULL:
        arena.on_kept(arena.owner)


cdef inline void unlink_kept(Arena arena, Extent *extent) noexcept:
    if extent.newer != NULL:
        extent.newer.older = extent.older
    else:
        arena.newest = extent.older
    if extent.older != NULL:
        extent.older.newer = extent.newer
    else:
        arena.oldest = extent.newer
    arena.kept -= extent.touched


cdef void let_pages_go(Arena arena, Extent *extent) noexcept:
    unlink_kept(arena, extent)
    if extent.address != NULL:
        munmap(extent.address, extent.capacity)
        extent.address = NULL
        arena.mapped -= 1
    cp_shm_punch(arena.fd, extent.offset, in_pages(extent.touched))
    extent.touched = 0


cdef int64_t arena_prune(Arena arena, uint64_t now) noexcept:
    """Lets go what has not been used for KEPT_NS; ns to the next time, -1: nothing is kept."""
    while arena.oldest != NULL and now - arena.oldest.freed_at >= KEPT_NS:
        let_pages_go(arena, arena.oldest)
    return -1 if arena.oldest == NULL else <int64_t> (arena.oldest.freed_at + KEPT_NS - now)


cdef bint arena_given_back(Arena arena, uint32_t number, void *reader) noexcept:
    """The reader is done with an extent. False: it never had it."""
    if number >= arena.count or arena.extents[number].lent_to != reader:
        return False
    arena.extents[number].lent_to = NULL
    settle_extent(arena, arena.extents[number])
    return True


cdef void arena_reader_gone(Arena arena, void *reader) noexcept:
    """The reader is dead: what it had comes back."""
    cdef uint32_t i
    for i in range(arena.count):
        arena_given_back(arena, i, reader)


cdef int parcel_write(Parcel parcel, Piece *pieces, uint32_t count) except -1:
    """Copies the pieces to their places. OSError (ENOMEM, ENOSPC ...) if there are
    no pages for them. Gives the GIL away."""
    cdef Extent *extent = parcel.extent
    cdef Arena arena = parcel.arena
    cdef uint64_t length = parcel.wire.length
    cdef uint32_t i
    cdef int error = 0
    if length <= extent.touched and extent.address == NULL and arena.mapped < MAPPED_EXTENTS:
        # used before and used again: worth a mapping; without one it works, too
        extent.address = <uint8_t *> mmap(
            NULL, extent.capacity, PROT_READ | PROT_WRITE, MAP_SHARED, arena.fd, <off_t> extent.offset)
        if <void *> extent.address == MAP_FAILED:
            extent.address = NULL
        else:
            arena.mapped += 1
            cp_shm_keep_private(extent.address, extent.capacity)
            with nogil:
                cp_shm_populate(extent.address, extent.touched, True)
    with nogil:
        for i in range(count):
            if extent.address != NULL and length <= extent.touched:
                memcpy(extent.address + pieces[i].at, pieces[i].data, pieces[i].length)
            else:
                error = write_at(arena.fd, pieces[i].data, pieces[i].length, extent.offset + pieces[i].at)
                if error:
                    break
    if error:
        cp_shm_punch(arena.fd, extent.offset, extent.capacity)
        extent.touched = 0
        if error == EFAULT:     # not of ours: a mapping of a file that has become shorter, say
            raise OSError(error, f"{os_strerror(error)}: a buffer that is to be sent cannot be read")
        raise OSError(error, f"{os_strerror(error)}: no shared memory for a payload of {length} bytes")
    if length > extent.touched:
        extent.touched = length
    return 0


cdef int write_at(int fd, const uint8_t *data, uint64_t length, uint64_t offset) noexcept nogil:
    """0, or an errno."""
    cdef uint64_t done = 0
    cdef Py_ssize_t step
    while done < length:
        step = pwrite(fd, data + done, length - done, <off_t> (offset + done))
        if step < 0:
            if errno == EINTR:
                continue
            return errno
        done += <uint64_t> step
    return 0
