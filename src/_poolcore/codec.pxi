# Python objects to bytes and back. Large buffers (of arrays and the like) stay
# outside of the pickle and are copied once, into shared memory.

import pickle
from multiprocessing.reduction import ForkingPickler

cdef object _dumps = pickle.dumps
cdef object _loads = pickle.loads
cdef object _stream_pickler = pickle.Pickler
cdef object _forking_dumps = ForkingPickler.dumps

cdef enum:
    # From here on a payload is read where it lies instead of being copied first;
    # below, a bytes object is cheaper to make than a memoryview.
    READ_IN_PLACE = 4096
    # From here on bytes are worth a pickler that does not copy them first; below,
    # `dumps` is faster.
    LARGE_BYTES = 1 << 17
    LOOKED_AT = 32          # items of a container, before it is pickled


@cython.final
cdef class Codec:
    """How arguments and results are pickled. One a process and pool; `pickler` is
    anything with the functions `dumps` and `loads` of the module pickle."""

    def __cinit__(self, pickler, uint64_t longest, uint64_t threshold):
        self.dumps = pickler.dumps
        self.loads = pickler.loads
        self.plain = pickler is pickle
        self.keeps_nothing = pickler.loads is _loads
        self.longest = longest
        self.threshold = threshold


@cython.final
cdef class Gather:
    """What pickling gives: the buffers outside of the stream and, if its pieces are
    not to be copied before they are in place, the stream."""

    def __dealloc__(self):
        release_buffers(&self.outside)
        release_buffers(&self.stream)

    def __call__(self, buffer):
        """A pickler's buffer_callback: whether the buffer shall stay in the stream."""
        return take_buffer(&self.outside, buffer, PyBUF_ANY_CONTIGUOUS, self.threshold)

    def write(self, data):
        """A pickler's file."""
        take_buffer(&self.stream, data, PyBUF_SIMPLE, 0)


cdef bint take_buffer(Buffers *buffers, object data, int flags, uint64_t least) except -1:
    """Holds what exports `data` until the end. True: it is shorter than `least`, and
    was not taken."""
    cdef Py_buffer *wider
    cdef Py_buffer *item
    cdef uint32_t room
    if buffers.count == buffers.room:
        room = max(4, 2 * buffers.room)
        wider = <Py_buffer *> PyMem_Realloc(buffers.items, room * sizeof(Py_buffer))
        if wider == NULL:
            raise MemoryError()
        buffers.items = wider
        buffers.room = room
    item = &buffers.items[buffers.count]
    PyObject_GetBuffer(data, item, flags)
    if <uint64_t> item.len < least:
        PyBuffer_Release(item)
        return True
    buffers.count += 1
    buffers.length += <uint64_t> item.len
    return False


cdef void release_buffers(Buffers *buffers) noexcept:
    cdef uint32_t i
    for i in range(buffers.count):
        PyBuffer_Release(&buffers.items[i])
    PyMem_Free(buffers.items)


cdef object encode(Codec codec, object value):
    """Pickled `value`: bytes, or a Gather of its pieces; for `fitted`."""
    cdef Shape shape = ANY
    cdef Gather gather
    if codec.plain:
        plain = plain_list(value) if type(value) is list else plain_pickle(value)
        if plain is not None:
            return plain
        shape = shape_of(value, 3)
        if shape == PLAIN:
            return _dumps(value, 5)
    gather = Gather.__new__(Gather)
    gather.threshold = codec.threshold
    try:
        if shape == LARGE:
            _stream_pickler(gather, 5, buffer_callback=gather).dump(value)
        else:
            gather.write(codec.dumps(value, 5, buffer_callback=gather))
    except Exception as error:
        if not codec.plain:
            raise
        # plain pickle first: it is six times faster than ForkingPickler, which
        # knows sockets, connections and locks besides
        try:
            data = bytes(_forking_dumps(value))
        except Exception:
            raise error
        return data
    except BaseException as error:      # an exit: see remote.of_arguments
        error.raised_by_pickle = True
        raise
    return gather


cdef Shape shape_of(object value, int depth) noexcept:
    """A look at the outside: most arguments are a few numbers and short strings."""
    cdef Shape shape = PLAIN
    cdef Py_ssize_t i
    kind = type(value)
    if value is None or kind is int or kind is float or kind is bool:
        return PLAIN
    if kind is str:
        return LARGE if PyUnicode_GET_LENGTH(value) >= LARGE_BYTES else PLAIN
    if kind is bytes:
        return LARGE if PyBytes_GET_SIZE(value) >= LARGE_BYTES else PLAIN
    if kind is bytearray:
        return LARGE if PyByteArray_GET_SIZE(value) >= LARGE_BYTES else PLAIN
    if depth == 0:
        return ANY
    if kind is tuple or kind is list:
        if PySequence_Fast_GET_SIZE(value) > LOOKED_AT:
            return ANY
        for i in range(PySequence_Fast_GET_SIZE(value)):
            shape = max(shape, shape_of(<object> PySequence_Fast_GET_ITEM(value, i), depth - 1))
        return shape
    return shape_of_values(value, depth - 1) if kind is dict else ANY


cdef Shape shape_of_values(dict value, int depth) noexcept:
    cdef Shape shape = PLAIN
    cdef PyObject *key
    cdef PyObject *item
    cdef Py_ssize_t at = 0
    if PyDict_Size(value) > LOOKED_AT:
        return ANY
    while PyDict_Next(value, &at, &key, &item):
        shape = max(shape, shape_of(<object> key, 0), shape_of(<object> item, depth))
    return shape


cdef object decode(Codec codec, const uint8_t *data, uint64_t length):
    if codec.plain:
        value = plain_value(data, length)
        if value is not NOT_PLAIN:
            return value
    if length < READ_IN_PLACE or not codec.keeps_nothing:
        return PyObject_CallOneArg(
            codec.loads, PyBytes_FromStringAndSize(<const char *> data, <Py_ssize_t> length))
    return PyObject_CallOneArg(
        codec.loads, PyMemoryView_FromMemory(<char *> data, <Py_ssize_t> length, PyBUF_READ))


cdef object decode_bytes(Codec codec, bytes data):
    if codec.plain:
        value = plain_value(<const uint8_t *> PyBytes_AS_STRING(data), <uint64_t> PyBytes_GET_SIZE(data))
        if value is not NOT_PLAIN:
            return value
    return PyObject_CallOneArg(codec.loads, data)
