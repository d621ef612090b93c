# The operating system's errors as Python's; descriptors and mappings.

cdef int check_fd(int fd) except -1:
    if fd < 0:
        raise OSError(errno, os_strerror(errno))
    return fd


cdef void *map_segment(int fd, uint64_t size, int protection) except NULL:
    cdef void *base = mmap(NULL, size, protection, MAP_SHARED, fd, 0)
    if base == MAP_FAILED:
        raise OSError(errno, os_strerror(errno))
    return base


cdef void close_fds(int fd, int *bell) noexcept:
    if fd >= 0:
        c_close(fd)
    if bell[0] >= 0:
        c_close(bell[0])
        if bell[1] != bell[0]:
            c_close(bell[1])
