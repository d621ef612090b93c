# Debug builds count what is made and freed (CELERY_POOL_DEBUG=1).

cdef dict debug_alive = {"jobs": 0, "channels": 0, "cores": 0}


def debug_counters():
    """{kind: alive now} in a debug build, else None."""
    return dict(debug_alive) if CP_DEBUG else None
