# Payloads too long for a ring, on the side of their reader. What is read lives on
# the mapping itself, and the extent is given back when the last view of it is gone.
# Mappings are kept a while: their extents are used again, and filling page tables
# takes half as long as the copy.

@cython.final
cdef class PeerArena:
    """The reader's view of the extents that the peer writes."""

    def __cinit__(self, int fd, uint64_t start):
        self.fd = fd
        self.start = start
        self.fork_generation = fork_generation

    def __dealloc__(self):
        while self.count:
            close_mapping(self, 0)


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Delivery:
    """One payload in an extent of the peer's."""

    def __dealloc__(self):
        if self.peer is not None:
            delivery_over(self)


@cython.final
@cython.no_gc
cdef class SharedBuffer:
    """What holds the memory of an array that lives in shared memory."""

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, <Py_ssize_t> self.length, 0, flags)


cdef Delivery received(PeerArena peer, const cp_parcel *wire):
    """The caller has checked `wire`."""
    cdef Delivery delivery = Delivery.__new__(Delivery)
    delivery.wire = wire[0]
    delivery.capacity = capacity_for(wire.length)
    delivery.peer = peer
    peer.unopened += 1
    return delivery


cdef bint parcel_is_sound(PeerArena peer, const cp_parcel *wire) noexcept:
    """Whether a peer of ours may have written that."""
    return (wire.offset >= peer.start and wire.offset % CP_PAGE == 0 and wire.offset <= CP_ARENA_SIZE
            and wire.length <= CP_ARENA_SIZE // 4
            and capacity_for(wire.length) <= CP_ARENA_SIZE - wire.offset and wire.stream <= wire.length
            and wire.count <= wire.length // sizeof(uint64_t)
            and wire.length <= shm_bytes(peer.fd))


cdef uint64_t shm_bytes(int fd) noexcept:
    """What the segment takes of memory: nobody has more in an arena."""
    cdef struct_stat status
    return <uint64_t> status.st_blocks * 512 if fstat(fd, &status) == 0 else 0


cdef int delivery_open(Delivery delivery) except -1:
    """Makes it readable at `data`. MemoryError: there is no memory or no address space."""
    cdef PeerArena peer = delivery.peer
    cdef void *address
    cdef uint32_t i
    if delivery.data != NULL:
        return 0
    for i in range(peer.count):
        if (peer.mappings[i].offset == delivery.wire.offset
                and peer.mappings[i].capacity == delivery.capacity):
            delivery.address = delivery.data = peer.mappings[i].address
            forget_mapping(peer, i)
            break
    else:
        # few in flight use the first extents over and over
        if delivery.wire.length < READ_BELOW and delivery.wire.number >= MAPPINGS:
            return delivery_read(delivery)
        while True:
            address = mmap(NULL, delivery.capacity, PROT_READ | PROT_WRITE, MAP_SHARED, peer.fd,
                           <off_t> delivery.wire.offset)
            if address != MAP_FAILED:
                break
            if not peer.count:
                raise MemoryError(
                    f"{os_strerror(errno)}: a payload of {delivery.wire.length} bytes cannot be mapped")
            close_mapping(peer, 0)
        delivery.address = delivery.data = <uint8_t *> address
        with nogil:
            cp_shm_populate(address, delivery.wire.length, False)
    delivery.forks = forks_begun
    no_longer_unopened(peer)
    return 0


cdef int delivery_read(Delivery delivery) except -1:
    cdef Py_ssize_t got
    cdef uint64_t done = 0
    delivery.data = <uint8_t *> PyMem_Malloc(delivery.wire.length)
    if delivery.data == NULL:
        raise MemoryError()
    while done < delivery.wire.length:
        got = pread(delivery.peer.fd, delivery.data + done, delivery.wire.length - done,
                    <off_t> (delivery.wire.offset + done))
        if got <= 0:
            raise OSError(errno, os_strerror(errno))
        done += <uint64_t> got
    return 0


cdef void delivery_over(Delivery delivery) noexcept:
    global lost_to_children
    cdef PeerArena peer = delivery.peer
    cdef bint known_to_children = False
    if delivery.data != delivery.address:
        PyMem_Free(delivery.data)
    if peer.fork_generation != fork_generation:
        if delivery.address != NULL:
            munmap(delivery.address, delivery.capacity)    # the child's own
        return
    if delivery.address == NULL:
        no_longer_unopened(peer)
    else:
        known_to_children = delivery.forks != forks_begun
        if known_to_children and peer.owner != NULL:
            lost_to_children += delivery.capacity
        keep_mapping(peer, delivery, known_to_children)
    # A child that was forked meanwhile may look at it for as long as it lives: such
    # an extent is never used again.
    if peer.owner != NULL and not known_to_children:
        peer.give_back(peer.owner, delivery.wire.number)


cdef void keep_mapping(PeerArena peer, Delivery delivery, bint useless) noexcept:
    cdef Mapping *mapping
    if useless or peer.owner == NULL:
        munmap(delivery.address, delivery.capacity)
        return
    while peer.count and (peer.count == MAPPINGS or peer.kept + delivery.capacity > KEPT_BYTES):
        close_mapping(peer, 0)
    mapping = &peer.mappings[peer.count]
    mapping.offset = delivery.wire.offset
    mapping.capacity = delivery.capacity
    mapping.address = delivery.address
    mapping.left_at = cp_now()
    peer.count += 1
    peer.kept += mapping.capacity
    if peer.on_kept != NULL:
        peer.on_kept(peer.owner)


cdef inline void forget_mapping(PeerArena peer, uint32_t i) noexcept:
    peer.kept -= peer.mappings[i].capacity
    peer.count -= 1
    memmove(&peer.mappings[i], &peer.mappings[i + 1], (peer.count - i) * sizeof(Mapping))


cdef void close_mapping(PeerArena peer, uint32_t i) noexcept:
    munmap(peer.mappings[i].address, peer.mappings[i].capacity)
    forget_mapping(peer, i)


cdef int64_t peer_prune(PeerArena peer, uint64_t now) noexcept:
    """As arena_prune."""
    while peer.count and now - peer.mappings[0].left_at >= KEPT_NS:
        close_mapping(peer, 0)
    return -1 if not peer.count else <int64_t> (peer.mappings[0].left_at + KEPT_NS - now)


cdef void peer_leave(PeerArena peer) noexcept:
    """The owner is gone. What has been delivered stays."""
    peer.owner = NULL
    while peer.count:
        close_mapping(peer, 0)
    peer.unopened += 1
    no_longer_unopened(peer)


cdef inline void no_longer_unopened(PeerArena peer) noexcept:
    peer.unopened -= 1
    if peer.own_fd and peer.unopened == 0 and peer.owner == NULL and peer.fd >= 0:
        c_close(peer.fd)
        peer.fd = -1


cdef bytes delivery_bytes(Delivery delivery):
    """The stream, copied."""
    delivery_open(delivery)
    return PyBytes_FromStringAndSize(
        <const char *> delivery.data + delivery.wire.length - delivery.wire.stream,
        <Py_ssize_t> delivery.wire.stream)


cdef object delivery_load(Codec codec, Delivery delivery):
    """The object in it."""
    cdef uint8_t *stream
    delivery_open(delivery)
    stream = delivery.data + delivery.wire.length - delivery.wire.stream
    if codec.keeps_nothing:
        view = PyMemoryView_FromMemory(<char *> stream, <Py_ssize_t> delivery.wire.stream, PyBUF_READ)
    else:
        view = memoryview(shared_buffer(delivery, stream, delivery.wire.stream)).toreadonly()
    if delivery.wire.count == 0:
        return PyObject_CallOneArg(codec.loads, view)
    return codec.loads(view, buffers=delivered_buffers(delivery))


cdef SharedBuffer shared_buffer(Delivery delivery, uint8_t *data, uint64_t length):
    cdef SharedBuffer shared = SharedBuffer.__new__(SharedBuffer)
    shared.delivery = delivery
    shared.data = data
    shared.length = length
    return shared


cdef list delivered_buffers(Delivery delivery):
    cdef uint64_t count = delivery.wire.count
    cdef uint64_t end = delivery.wire.length - delivery.wire.stream
    cdef uint64_t at = aligned(count * sizeof(uint64_t))
    cdef uint64_t i, length
    cdef list buffers = []
    for i in range(count):
        length = (<volatile_uint64 *> delivery.data)[i]      # the peer may write meanwhile
        if at > end or length > end - at:
            raise EOFError(f"a payload of {delivery.wire.length} bytes ends too early")
        if delivery.peer.copies or delivery.wire.length < VIEW_FROM or lost_to_children > LOST_TO_CHILDREN:
            buffers.append(PyByteArray_FromStringAndSize(
                <const char *> delivery.data + at, <Py_ssize_t> length))
        else:
            buffers.append(memoryview(shared_buffer(delivery, delivery.data + at, length)))
        at += aligned(length)
    return buffers
