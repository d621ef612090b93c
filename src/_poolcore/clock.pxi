# Times: CLOCK_MONOTONIC, in ns.

cdef enum:
    TICK_NS = 1000000       # between two looks by the clock, where somebody looks so

cdef int64_t deadline_after(timeout) except? -2:
    """CLOCK_MONOTONIC ns; -1: none."""
    if timeout is None:
        return -1
    cdef double seconds = timeout
    if seconds != seconds:
        raise ValueError("timeout must be a number of seconds")
    if seconds <= 0:
        return 0
    if seconds > 1e9:
        return -1
    return <int64_t> cp_now() + <int64_t> (seconds * 1e9)


cdef inline int64_t sooner(int64_t a, int64_t b) noexcept:
    """The shorter of two durations, where a negative one has no end."""
    if b < 0:
        return a
    return b if a < 0 or b < a else a
