# What goes into a frame or, if it is too long for that, into an extent: a parcel.

cdef object fitted(Codec codec, Arena arena, object data):
    """What encode returned as bytes if a ring takes it, else as a Parcel. Gives the GIL
    away while it copies what is long."""
    cdef Parcel parcel
    cdef Piece piece
    if type(data) is Gather:
        return gathered(codec, arena, data)
    if <uint64_t> PyBytes_GET_SIZE(data) <= codec.longest:
        return data
    piece.data = <const uint8_t *> PyBytes_AS_STRING(data)
    piece.length = <uint64_t> PyBytes_GET_SIZE(data)
    piece.at = 0
    parcel = arena_parcel(arena, piece.length)
    parcel_write(parcel, &piece, 1)
    return parcel


cdef object gathered(Codec codec, Arena arena, Gather gather):
    """In the extent: the lengths of the buffers, the buffers, the stream."""
    cdef uint32_t count = gather.outside.count
    cdef uint64_t at = aligned(count * sizeof(uint64_t))
    cdef uint32_t i, used = 0
    cdef Parcel parcel
    cdef uint64_t *lengths = NULL
    cdef Piece *pieces = NULL
    if count == 0 and gather.stream.length <= codec.longest:
        if gather.stream.count == 1 and type(<object> gather.stream.items[0].obj) is bytes:
            return <object> gather.stream.items[0].obj
        return b"".join([PyBytes_FromStringAndSize(<char *> gather.stream.items[i].buf, gather.stream.items[i].len)
                         for i in range(gather.stream.count)])
    try:
        lengths = <uint64_t *> PyMem_Malloc((count + 1) * sizeof(uint64_t))
        pieces = <Piece *> PyMem_Malloc((count + gather.stream.count + 1) * sizeof(Piece))
        if lengths == NULL or pieces == NULL:
            raise MemoryError()
        if count:
            pieces[0].data = <const uint8_t *> lengths
            pieces[0].length = count * sizeof(uint64_t)
            pieces[0].at = 0
            used = 1
        for i in range(count):
            lengths[i] = <uint64_t> gather.outside.items[i].len
            lay(&pieces[used], &gather.outside.items[i], at)
            at += aligned(lengths[i])
            used += 1
        for i in range(gather.stream.count):
            lay(&pieces[used], &gather.stream.items[i], at)
            at += pieces[used].length
            used += 1
        parcel = arena_parcel(arena, at)
        parcel.wire.stream = gather.stream.length
        parcel.wire.count = count
        parcel_write(parcel, pieces, used)
        return parcel
    finally:
        PyMem_Free(lengths)
        PyMem_Free(pieces)


cdef inline void lay(Piece *piece, const Py_buffer *buffer, uint64_t at) noexcept:
    piece.data = <const uint8_t *> buffer.buf
    piece.length = <uint64_t> buffer.len
    piece.at = at


cdef inline uint64_t encoded_bytes(object data) noexcept:
    """Of what `encode` returned; in an extent it takes a little more."""
    if type(data) is Gather:
        return (<Gather> data).outside.length + (<Gather> data).stream.length
    return <uint64_t> PyBytes_GET_SIZE(data)


cdef inline uint64_t payload_bytes(object payload) noexcept:
    """Of what `fitted` returned."""
    if type(payload) is Parcel:
        return (<Parcel> payload).wire.length
    return <uint64_t> PyBytes_GET_SIZE(payload)


cdef bint parcel_of(Channel channel, cp_frame *frame, const uint8_t *payload, cp_parcel *wire) noexcept:
    """What the frame says of a long payload. False: garbage."""
    if frame.length != sizeof(cp_parcel):
        return False
    memcpy(wire, payload, sizeof(cp_parcel))
    return parcel_is_sound(channel.results, wire)


cdef bytes copied(const uint8_t *payload, uint64_t length):
    return PyBytes_FromStringAndSize(<const char *> payload, <Py_ssize_t> length)
