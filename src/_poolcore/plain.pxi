# Most arguments and results are a few numbers and short strings. Making a pickler
# for them costs ten times what their pickle does, and making an unpickler several times
# what reading it does, so they are written and read here: by the same opcodes, for
# pickle.loads as well.

cdef enum:
    PLAIN_BYTES = 512       # longest pickle written here
    PLAIN_LIST = 60000      # the same, of a list of numbers: a ring takes it

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


cdef bytes plain_list(list value):
    """The pickle of a list of numbers (and None, True, False), or of tuples of at most three of
    these: what chunks of many small calls and their results are. None if it is anything else,
    or long. No strings: pickle would write the same one once."""
    cdef Py_ssize_t i, j, parts, room, size = PyList_GET_SIZE(value)
    cdef uint8_t *buffer
    cdef uint8_t *at
    cdef uint8_t *end
    cdef PyObject *item
    if size and plain_kind(PyList_GET_ITEM(value, 0)) == 0:
        return None
    room = min(32 * size, <Py_ssize_t> PLAIN_LIST) + 64
    at = buffer = <uint8_t *> PyMem_Malloc(room)
    end = buffer + room - 32
    if buffer == NULL:
        raise MemoryError()
    at[0] = OP_PROTO
    at[1] = 5
    at[2] = OP_EMPTY_LIST
    at[3] = OP_MARK
    at += 4 if size else 3
    try:
        for i in range(size):
            item = PyList_GET_ITEM(value, i)
            if plain_kind(item) == 1:
                at = plain_item(<object> item, at, end)
            elif type(<object> item) is tuple and PyTuple_GET_SIZE(<object> item) <= 3:
                parts = PyTuple_GET_SIZE(<object> item)
                for j in range(parts):
                    if at == NULL or plain_kind(PyTuple_GET_ITEM(<object> item, j)) != 1:
                        return None
                    at = plain_item(<object> PyTuple_GET_ITEM(<object> item, j), at, end)
                if at != NULL:
                    at[0] = <uint8_t> (OP_TUPLE1 + parts - 1 if parts else OP_EMPTY_TUPLE)
                    at += 1
            else:
                return None
            if at == NULL:
                return None
        if size:
            at[0] = OP_APPENDS
            at += 1
        at[0] = OP_STOP
        return PyBytes_FromStringAndSize(<const char *> buffer, at + 1 - buffer)
    finally:
        PyMem_Free(buffer)


cdef inline int plain_kind(PyObject *item) noexcept:
    """1: a number, None, True or False; 2: a tuple; else 0."""
    kind = type(<object> item)
    if kind is int or kind is float or kind is bool or <object> item is None:
        return 1
    return 2 if kind is tuple else 0


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


# What plain_value says of anything else than what plain_pickle writes.
cdef object NOT_PLAIN = object()


cdef object plain_value(const uint8_t *at, uint64_t length):
    """The value of a pickle that plain_pickle has written; NOT_PLAIN of any other one, also
    where it is damaged."""
    cdef PyObject *items[PLAIN_BYTES]
    cdef const uint8_t *end = at + length
    cdef Py_ssize_t count = 0
    cdef object value = NOT_PLAIN
    cdef bint marked
    if length < 4 or length > PLAIN_LIST + 64 or at[0] != OP_PROTO or at[1] != 5:
        return NOT_PLAIN
    at += 2
    if at[0] == OP_EMPTY_LIST:
        return plain_list_value(at + 1, end)
    if length > PLAIN_BYTES + 32:
        return NOT_PLAIN
    marked = at[0] == OP_MARK
    at += marked
    try:
        while at != NULL and end - at > 1 and not ends_items(at[0]) and count < PLAIN_BYTES:
            at = plain_read(at, end, &items[count])
            count += at != NULL
        if at == NULL:
            return NOT_PLAIN
        if end - at == 1:
            if at[0] == OP_STOP and count == 1 and not marked:
                value = <object> items[0]
        elif end - at == 2 and at[1] == OP_STOP and makes_tuple(at[0], count, marked):
            value = PyTuple_New(count)
            while count:
                count -= 1
                PyTuple_SET_ITEM(value, count, <object> items[count])   # takes the reference
        return value
    finally:
        while count:
            count -= 1
            Py_DECREF(<object> items[count])


cdef object plain_list_value(const uint8_t *at, const uint8_t *end):
    """Of what plain_list has written, behind its OP_EMPTY_LIST."""
    cdef PyObject **items
    cdef Py_ssize_t count, i, size, filled = 0
    cdef uint8_t opcode
    if end - at == 1 and at[0] == OP_STOP:
        return []
    if end - at < 4 or at[0] != OP_MARK or (end - 2)[0] != OP_APPENDS or (end - 1)[0] != OP_STOP:
        return NOT_PLAIN
    at += 1
    end -= 2
    count = items_within(at, end)
    if count <= 0:
        return NOT_PLAIN
    items = <PyObject **> PyMem_Malloc((count + 3) * sizeof(PyObject *))
    if items == NULL:
        raise MemoryError()
    try:
        while at != end:
            opcode = at[0]
            if opcode == OP_EMPTY_TUPLE or OP_TUPLE1 <= opcode <= OP_TUPLE1 + 2:
                size = 0 if opcode == OP_EMPTY_TUPLE else opcode - OP_TUPLE1 + 1
                value = PyTuple_New(size)
                for i in range(size):
                    filled -= 1
                    PyTuple_SET_ITEM(value, size - 1 - i, <object> items[filled])
                Py_INCREF(value)
                items[filled] = <PyObject *> value
                at += 1
            else:
                at = plain_read(at, end, &items[filled])
            filled += 1
        values = PyList_New(count)
        while filled:
            filled -= 1
            PyList_SET_ITEM(values, filled, <object> items[filled])
        return values
    finally:
        while filled:
            filled -= 1
            Py_DECREF(<object> items[filled])
        PyMem_Free(items)


cdef Py_ssize_t items_within(const uint8_t *at, const uint8_t *end) noexcept:
    """How many numbers, and tuples of numbers; -1: it is none of ours. There are never more than
    so many and three on the way, nor any tuple within a tuple."""
    cdef Py_ssize_t count = 0, fresh = 0    # of these: since the last tuple
    cdef Py_ssize_t size
    while at < end:
        size = 1
        if at[0] == OP_BININT1:
            size = 2
        elif at[0] == OP_BININT:
            size = 5
        elif at[0] == OP_BINFLOAT:
            size = 9
        elif at[0] == OP_LONG1:
            if end - at < 10 or at[1] != 8:
                return -1
            size = 10
        elif at[0] == OP_EMPTY_TUPLE or OP_TUPLE1 <= at[0] <= OP_TUPLE1 + 2:
            size = 0 if at[0] == OP_EMPTY_TUPLE else at[0] - OP_TUPLE1 + 1
            if size > fresh:
                return -1
            count += 1 - size
            fresh = 0
            at += 1
            continue
        elif at[0] != OP_NONE and at[0] != OP_TRUE and at[0] != OP_FALSE:
            return -1
        count += 1
        fresh += 1
        at += size
    return count if at == end else -1


cdef inline bint ends_items(uint8_t opcode) noexcept:
    return opcode == OP_TUPLE or opcode == OP_EMPTY_TUPLE or OP_TUPLE1 <= opcode <= OP_TUPLE1 + 2


cdef inline bint makes_tuple(uint8_t opcode, Py_ssize_t count, bint marked) noexcept:
    if marked:
        return opcode == OP_TUPLE
    return opcode == (OP_EMPTY_TUPLE if count == 0 else OP_TUPLE1 + count - 1) and count <= 3


cdef inline const uint8_t *plain_read(const uint8_t *at, const uint8_t *end, PyObject **item) except? NULL:
    """Where the next item begins; NULL, without an exception: this is none of ours."""
    cdef uint8_t opcode = at[0]
    cdef Py_ssize_t left = end - at - 1
    at += 1
    if opcode == OP_BININT1:
        if left < 1:
            return NULL
        item[0] = PyLong_FromLongLong(at[0])
        return at + 1
    if opcode == OP_BININT:
        if left < 4:
            return NULL
        item[0] = PyLong_FromLongLong(<int32_t> <uint32_t> from_little_endian(at, 4))
        return at + 4
    if opcode == OP_LONG1:
        if left < 9 or at[0] != 8:
            return NULL
        item[0] = PyLong_FromLongLong(<int64_t> from_little_endian(at + 1, 8))
        return at + 9
    if opcode == OP_BINFLOAT:
        if left < 8:
            return NULL
        item[0] = PyFloat_FromDouble(from_big_endian_double(at))
        return at + 8
    if opcode == OP_NONE or opcode == OP_TRUE or opcode == OP_FALSE:
        value = None if opcode == OP_NONE else opcode == OP_TRUE
        Py_INCREF(value)
        item[0] = <PyObject *> value
        return at
    if opcode == OP_SHORT_BINUNICODE or opcode == OP_SHORT_BINBYTES:
        if left < 1 or left - 1 < at[0]:
            return NULL
        return plain_read_text(at + 1, at[0], opcode == OP_SHORT_BINUNICODE, item)
    if opcode == OP_BINUNICODE or opcode == OP_BINBYTES:
        if left < 4 or <uint64_t> left - 4 < from_little_endian(at, 4):
            return NULL
        return plain_read_text(
            at + 4, <Py_ssize_t> from_little_endian(at, 4), opcode == OP_BINUNICODE, item)
    return NULL


cdef inline const uint8_t *plain_read_text(const uint8_t *at, Py_ssize_t length, bint text,
                                           PyObject **item) except? NULL:
    cdef Py_ssize_t i
    if not text:
        item[0] = PyBytes_New(<const char *> at, length)
        return at + length
    for i in range(length):
        if at[i] & 0x80:
            return NULL
    item[0] = PyUnicode_DecodeASCII(<const char *> at, length, NULL)
    return at + length


cdef inline uint64_t from_little_endian(const uint8_t *at, int size) noexcept:
    cdef uint64_t number = 0
    cdef int i
    for i in range(size):
        number |= <uint64_t> at[i] << (8 * i)
    return number


cdef inline double from_big_endian_double(const uint8_t *at) noexcept:
    cdef uint64_t bits = 0
    cdef double number
    cdef int i
    for i in range(8):
        bits = bits << 8 | at[i]
    memcpy(&number, &bits, 8)
    return number


def read_plain(bytes data not None):
    """(value,) of a pickle that the core reads by itself, else None. For tests."""
    value = plain_value(<const uint8_t *> PyBytes_AS_STRING(data), <uint64_t> PyBytes_GET_SIZE(data))
    return None if value is NOT_PLAIN else (value,)
