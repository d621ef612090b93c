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


@cython.final
cdef class Codec:
    """How arguments and results are pickled. One a process and pool; `pickler` is
    anything with the functions `dumps` and `loads` of the module pickle."""
    cdef object dumps
    cdef object loads
    cdef bint plain         # it is the module pickle

    def __cinit__(self, pickler):
        self.dumps = pickler.dumps
        self.loads = pickler.loads
        self.plain = pickler is pickle


cdef bytes encode(Codec codec, object value):
    """Pickled `value`. Plain pickle first: it is six times faster than
    ForkingPickler, which knows sockets, connections and locks besides."""
    try:
        return codec.dumps(value, 5)
    except Exception as error:
        if codec.plain:
            try:
                return bytes(_forking_dumps(value))
            except Exception:
                pass
        raise error


cdef object decode(Codec codec, const uint8_t *data, uint64_t length):
    if length < READ_IN_PLACE:
        return PyObject_CallOneArg(
            codec.loads, PyBytes_FromStringAndSize(<const char *> data, <Py_ssize_t> length))
    return PyObject_CallOneArg(
        codec.loads, PyMemoryView_FromMemory(<char *> data, <Py_ssize_t> length, PyBUF_READ))
