# Python objects to bytes and back.

import pickle
from multiprocessing.reduction import ForkingPickler

cdef object _dumps = pickle.dumps
cdef object _loads = pickle.loads
cdef object _forking_dumps = ForkingPickler.dumps

# From here on a payload is read where it lies instead of being copied first;
# below, a bytes object is cheaper to make than a memoryview.
cdef enum:
    READ_IN_PLACE = 4096


cdef bytes encode(object value):
    """Pickled `value`. Plain pickle first: it is six times faster than
    ForkingPickler, which knows sockets, connections and locks besides."""
    try:
        return _dumps(value, 5)
    except Exception as error:
        try:
            return bytes(_forking_dumps(value))
        except Exception:
            raise error


cdef object decode(const uint8_t *data, uint64_t length):
    if length < READ_IN_PLACE:
        return PyObject_CallOneArg(
            _loads, PyBytes_FromStringAndSize(<const char *> data, <Py_ssize_t> length))
    return PyObject_CallOneArg(
        _loads, PyMemoryView_FromMemory(<char *> data, <Py_ssize_t> length, PyBUF_READ))
