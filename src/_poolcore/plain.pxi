# Most arguments and results are a few numbers and short strings. Making a pickler
# for them costs ten times what their pickle does, so it is written here: by the
# same opcodes, for pickle.loads.

cdef enum:
    PLAIN_BYTES = 512       # longest pickle written here

cdef bytes plain_pickle(object value):
    """The pickle of a number, string, bytes, None or a tuple of these; None if it is
    anything else, or long."""
    cdef uint8_t buffer[PLAIN_BYTES + 32]
    cdef uint8_t *at = buffer
    cdef Py_ssize_t i, size
    at[0] = OP_PROTO
    at[1] = 5
    at += 2
    if type(value) is tuple:
        size = PyTuple_GET_SIZE(value)
        if size > 3:
            at[0] = OP_MARK
            at += 1
        for i in range(size):
            at = plain_item(<object> PyTuple_GET_ITEM(value, i), at, buffer + PLAIN_BYTES)
            if at == NULL:
                return None
        at[0] = <uint8_t> (OP_EMPTY_TUPLE if size == 0 else OP_TUPLE if size > 3 else OP_TUPLE1 + size - 1)
        at += 1
    else:
        at = plain_item(value, at, buffer + PLAIN_BYTES)
        if at == NULL:
            return None
    at[0] = OP_STOP
    at += 1
    return PyBytes_FromStringAndSize(<const char *> buffer, at - buffer)


cdef inline uint8_t *plain_item(object value, uint8_t *at, uint8_t *end) noexcept:
    """Where the next one goes; NULL: not plain, or no room."""
    cdef long long number
    cdef int overflow = 0
    kind = type(value)
    if end - at < 16:
        return NULL
    if kind is int:
        number = PyLong_AsLongLongAndOverflow(value, &overflow)
        if overflow:
            return NULL
        if 0 <= number <= 0xff:
            at[0] = OP_BININT1
            at[1] = <uint8_t> number
            return at + 2
        if -0x80000000 <= number <= 0x7fffffff:
            at[0] = OP_BININT
            return little_endian(at + 1, <uint64_t> number, 4)
        at[0] = OP_LONG1
        at[1] = 8
        return little_endian(at + 2, <uint64_t> number, 8)
    if kind is str:
        if not PyUnicode_IS_COMPACT_ASCII(value):
            return NULL
        return plain_text(at, end, PyUnicode_1BYTE_DATA(value), PyUnicode_GET_LENGTH(value),
                          OP_SHORT_BINUNICODE, OP_BINUNICODE)
    if kind is bytes:
        return plain_text(at, end, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value),
                          OP_SHORT_BINBYTES, OP_BINBYTES)
    if value is None:
        at[0] = OP_NONE
        return at + 1
    if kind is bool:
        at[0] = OP_TRUE if value is True else OP_FALSE
        return at + 1
    if kind is float:
        at[0] = OP_BINFLOAT
        big_endian_double(at + 1, PyFloat_AS_DOUBLE(value))
        return at + 9
    return NULL


cdef inline uint8_t *plain_text(uint8_t *at, uint8_t *end, const void *text, Py_ssize_t length,
                                uint8_t short_opcode, uint8_t opcode) noexcept:
    if length > end - at - 16:
        return NULL
    if length <= 0xff:
        at[0] = short_opcode
        at[1] = <uint8_t> length
        at += 2
    else:
        at[0] = opcode
        at = little_endian(at + 1, <uint64_t> length, 4)
    memcpy(at, text, <size_t> length)
    return at + length


cdef inline uint8_t *little_endian(uint8_t *at, uint64_t number, int size) noexcept:
    cdef int i
    for i in range(size):
        at[i] = <uint8_t> (number >> (8 * i))
    return at + size


cdef inline void big_endian_double(uint8_t *at, double number) noexcept:
    cdef uint64_t bits
    cdef int i
    memcpy(&bits, &number, 8)
    for i in range(8):
        at[i] = <uint8_t> (bits >> (56 - 8 * i))
