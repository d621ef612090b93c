# Payloads too long for a ring: an extent of the sparse part of a segment, whose
# place travels in the frame. The writer chooses places, the reader gives the
# pages back.

cdef struct Arena:
    int fd
    uint64_t start          # of the arena within the segment
    uint64_t next


cdef inline void arena_init(Arena *arena, int fd, uint64_t start) noexcept:
    arena.fd = fd
    arena.start = arena.next = start


cdef int arena_write(Arena *arena, bytes data, cp_extent *extent) except -1:
    """Copies `data` into fresh pages. OSError (ENOMEM, ENOSPC ...) if there are none."""
    cdef const char *source = PyBytes_AS_STRING(data)
    cdef uint64_t length = <uint64_t> PyBytes_GET_SIZE(data)
    cdef uint64_t rounded = (length + CP_PAGE - 1) & ~<uint64_t> (CP_PAGE - 1)
    # Places are not reused before the whole arena has been gone through, which
    # takes 64 TiB: what lay there is long read and given back.
    if arena.next + rounded > CP_ARENA_SIZE:
        arena.next = arena.start
    extent.offset = arena.next
    extent.length = length
    arena.next += rounded
    cdef uint64_t done = 0
    cdef Py_ssize_t step
    cdef int error = 0
    with nogil:
        while done < length:
            step = pwrite(arena.fd, source + done, length - done, <off_t> (extent.offset + done))
            if step < 0:
                if errno == EINTR:
                    continue
                error = errno
                break
            done += <uint64_t> step
    if error:
        cp_shm_punch(arena.fd, extent.offset, rounded)
        raise OSError(error, f"{os_strerror(error)}: no shared memory for a payload of {length} bytes")
    return 0


cdef bytes arena_read(int fd, cp_extent extent):
    """Copies an extent out and gives its pages back."""
    cdef bytes data
    try:
        data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> extent.length)
    except MemoryError:
        arena_free(fd, extent)
        raise
    cdef char *target = PyBytes_AS_STRING(data)
    cdef uint64_t done = 0
    cdef Py_ssize_t step = 0
    with nogil:
        while done < extent.length:
            step = pread(fd, target + done, extent.length - done, <off_t> (extent.offset + done))
            if step < 0 and errno == EINTR:
                continue
            if step <= 0:
                break
            done += <uint64_t> step
        arena_free(fd, extent)
    if done < extent.length:
        raise EOFError(f"a payload of {extent.length} bytes ends after {done}")
    return data


cdef void arena_free(int fd, cp_extent extent) noexcept nogil:
    cp_shm_punch(fd, extent.offset, (extent.length + CP_PAGE - 1) & ~<uint64_t> (CP_PAGE - 1))


cdef inline bint arena_holds(Arena *arena, cp_extent extent) noexcept:
    """Whether an extent that the peer names lies in the arena."""
    return (extent.offset >= arena.start and extent.offset % CP_PAGE == 0 and
            extent.offset <= CP_ARENA_SIZE and extent.length <= CP_ARENA_SIZE - extent.offset)


cdef inline bytes extent_bytes(cp_extent extent):
    return PyBytes_FromStringAndSize(<const char *> &extent, sizeof(cp_extent))


cdef inline cp_extent extent_of(const void *data) noexcept:
    cdef cp_extent extent
    memcpy(&extent, data, sizeof(cp_extent))
    return extent


cdef uint64_t shm_bytes(int fd) noexcept:
    """What the segment takes of memory: nobody has more in an arena."""
    cdef struct_stat status
    return <uint64_t> status.st_blocks * 512 if fstat(fd, &status) == 0 else 0
