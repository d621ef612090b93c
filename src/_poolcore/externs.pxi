# What the C headers and CPython give us.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_GivenExceptionMatches
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport (
    PyBUF_ANY_CONTIGUOUS, PyBUF_READ, PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release,
    PyObject_GetBuffer)
from cpython.bytearray cimport PyByteArray_FromStringAndSize, PyByteArray_GET_SIZE
from cpython.dict cimport PyDict_Next, PyDict_Size
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_GET_LENGTH
from libc.errno cimport EFAULT, EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset
from posix.stat cimport fstat, struct_stat
from posix.types cimport off_t
from posix.unistd cimport close as c_close, pread, pwrite


cdef extern from "Python.h":
    object PyObject_CallOneArg(object function, object argument)
    object PyObject_Call(object function, object args, PyObject *kwargs)
    void PyObject_GC_Track(PyObject *)
    void PyObject_GC_UnTrack(PyObject *)
    bint PyType_Check(object)
    Py_ssize_t PySequence_Fast_GET_SIZE(object)
    PyObject *PySequence_Fast_GET_ITEM(object, Py_ssize_t)
    long long PyLong_AsLongLongAndOverflow(object, int *)
    double PyFloat_AS_DOUBLE(object)
    PyObject *PyLong_FromLongLong(long long) except NULL
    PyObject *PyFloat_FromDouble(double) except NULL
    PyObject *PyUnicode_DecodeASCII(const char *, Py_ssize_t, const char *) except NULL
    PyObject *PyBytes_New "PyBytes_FromStringAndSize"(const char *, Py_ssize_t) except NULL
    object PyTuple_New(Py_ssize_t)
    object PyList_New(Py_ssize_t)
    Py_ssize_t PyList_GET_SIZE(object)
    PyObject *PyList_GET_ITEM(object, Py_ssize_t)
    void PyList_SET_ITEM(object, Py_ssize_t, object)
    PyObject *PyIter_Next(object) except? NULL
    Py_ssize_t PY_SSIZE_T_MAX
    void PyTuple_SET_ITEM(object, Py_ssize_t, object)
    bint PyUnicode_IS_COMPACT_ASCII(object)
    void *PyUnicode_1BYTE_DATA(object)
    ctypedef void *PyThread_type_lock
    ctypedef enum PyLockStatus:
        PY_LOCK_FAILURE
        PY_LOCK_ACQUIRED
        PY_LOCK_INTR
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock)
    int PyThread_acquire_lock(PyThread_type_lock, int)
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock, long long, int) nogil
    void PyThread_release_lock(PyThread_type_lock)
    unsigned long PyThread_get_thread_ident()
    ctypedef struct PyCodeObject:
        int co_argcount
        int co_kwonlyargcount
        int co_flags
    const int CO_VARARGS
    const int METH_NOARGS
    const int METH_O
    PyObject *PyFunction_GET_CODE(object)
    PyObject *PyFunction_GET_DEFAULTS(object)
    PyObject *PyFunction_GET_KW_DEFAULTS(object)
    bint PyMethod_Check(object)
    PyObject *PyMethod_GET_FUNCTION(object)
    bint PyCFunction_Check(object)
    int PyCFunction_GET_FLAGS(object)
    PyObject *_PyType_Lookup(PyTypeObject *, object)


cdef extern from *:
    """
    #ifndef CP_DEBUG
    #define CP_DEBUG 0
    #endif
    #define CP_UNLIKELY(x) __builtin_expect(!!(x), 0)
    #define UNLIMITED UINT64_MAX
    #define CP_PREFETCH(address) __builtin_prefetch((address), 1)
    #define cp_log2(x) (63u - (unsigned)__builtin_clzll(x))
    typedef const volatile uint64_t volatile_uint64;
    typedef const volatile uint32_t volatile_uint32;
    #define cp_inherit_iternext(cls, base) \
        (((PyTypeObject *)(cls))->tp_iternext = ((PyTypeObject *)(base))->tp_iternext)
    """
    const uint64_t UNLIMITED
    void CP_PREFETCH(const void *) noexcept nogil
    void cp_inherit_iternext(object, object) noexcept
    const bint CP_DEBUG
    uint32_t cp_log2(uint64_t)
    ctypedef uint64_t volatile_uint64
    ctypedef uint32_t volatile_uint32
    bint CP_UNLIKELY(bint)


cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *, size_t, int, int, int, off_t)
    int munmap(void *, size_t)
    void *MAP_FAILED
    int PROT_READ, PROT_WRITE, MAP_SHARED


cdef extern from "<unistd.h>" nogil:
    void c_exit "_exit"(int)


cdef extern from "_poolcore/shield.h" nogil:
    int cp_shield(int, int, int)
    bint cp_is_shielded(int)

cdef extern from "_poolcore/wait.h" nogil:
    ctypedef struct cp_word:
        pass
    void cp_publish(cp_word *, uint64_t)
    uint64_t cp_observe(const cp_word *)
    uint64_t cp_peek(const cp_word *)
    void cp_poke(cp_word *, uint64_t)
    void cp_bump(cp_word *, uint64_t)
    void cp_tell(cp_word *, uint64_t)
    uint64_t cp_hear(const cp_word *)

    uint64_t CP_MAGIC, CP_ARENA_SIZE, CP_ARENA_AT, CP_SHOWN_SIZE
    uint32_t CP_ABI, CP_FUNCTIONS, CP_LINE, CP_PAGE, CP_RING_DEFAULT

    ctypedef struct cp_control:
        uint64_t magic
        uint32_t abi
        uint32_t frame_size
        cp_word trace_until
        cp_word parent_epoch
    ctypedef struct cp_indices:
        cp_word tail
        cp_word head
    ctypedef struct cp_header:
        uint64_t magic
        uint32_t abi
        uint32_t header_size
        uint64_t ring_size
        cp_word soft_tid
        cp_word worker_epoch
        cp_indices submission
        cp_indices completion
    ctypedef struct cp_frame:
        uint32_t size
        uint16_t kind
        uint16_t flags
        uint32_t fid
        uint32_t length
        cp_word claim
        cp_word start
    ctypedef struct cp_parcel:
        uint64_t offset
        uint64_t length
        uint64_t stream
        uint32_t number
        uint32_t count
    int CP_GIVE_BACK, CP_TASK, CP_DEFINE, CP_STOP
    int CP_HELLO, CP_START_FAILED, CP_ACK, CP_RESULT, CP_ERROR, CP_EXPIRED, CP_LEAVING
    int CP_KWARGS, CP_TARGET, CP_WANT_ACK, CP_IN_ARENA, CP_MANY, CP_STAR, CP_EACH, CP_STAMPED

    unsigned CP_READY, CP_CLAIMED, CP_DONE, CP_REVOKED, CP_KILLED
    uint64_t cp_claim(uint64_t, unsigned)
    uint64_t cp_claim_tid(uint64_t)
    unsigned cp_claim_state(uint64_t)
    bint cp_claim_take(cp_frame *, uint64_t)
    bint cp_claim_finish(cp_frame *, uint64_t)
    bint cp_claim_revoke(cp_frame *, uint64_t)
    bint cp_claim_kill(cp_frame *, uint64_t)

    ctypedef struct cp_producer:
        uint8_t *base
        uint64_t size
        uint64_t tail
        uint64_t head_seen
    ctypedef struct cp_consumer:
        uint8_t *base
        uint64_t size
        uint64_t released
        cp_word head
    int CP_EMPTY, CP_FRAME, CP_GARBAGE
    uint64_t cp_ring_longest(uint64_t)
    uint64_t cp_frame_bytes(uint64_t)
    cp_frame *cp_ring_at(uint8_t *, uint64_t, uint64_t)
    void cp_producer_init(cp_producer *, cp_indices *, uint8_t *, uint64_t)
    uint64_t cp_producer_need(const cp_producer *, uint64_t)
    bint cp_producer_holds(const cp_producer *, uint64_t)
    bint cp_producer_fits(const cp_producer *, uint64_t)
    bint cp_producer_look(cp_producer *)
    int cp_ring_reserve(cp_producer *, uint64_t, cp_frame **)
    void cp_ring_publish(cp_producer *)
    void cp_consumer_init(cp_consumer *, cp_indices *, uint8_t *, uint64_t)
    bint cp_consumer_pending(const cp_consumer *)
    int cp_ring_next(cp_consumer *, cp_frame *, uint64_t *, const uint8_t **)
    bint cp_ring_look_ahead(cp_consumer *, uint64_t *, cp_frame *)
    void cp_ring_advance(cp_consumer *, const cp_frame *)
    void cp_ring_release(cp_consumer *)

    uint64_t cp_now()
    void cp_sleep(uint64_t)
    int cp_shm_create(const char *, uint64_t)
    bint cp_shm_holds(int, uint64_t)
    void cp_shm_punch(int, uint64_t, uint64_t)
    void cp_shm_keep_private(void *, size_t)
    void cp_shm_populate(void *, size_t, bint)
    int cp_bell_create(int *)
    void cp_bell_ring(int)
    void cp_bell_drain(int)
    int cp_bells_watch(int, int)
    void cp_bell_wait(int, int, int64_t)
    int cp_die_with(int)

    ctypedef struct cp_patience:
        pass
    void cp_patience_init(cp_patience *, uint64_t, uint32_t)
    ctypedef struct cp_ringer:
        const cp_word *epoch
        uint64_t rung
        int fd
    void cp_bell_ring_if_parked(cp_ringer *)
    ctypedef bint (*cp_condition)(void *)
    bint cp_wait_awake(cp_patience *, const cp_word *, cp_condition, void *)
    void cp_park(cp_word *, uint64_t, int, int, cp_condition, void *, int64_t, cp_patience *)
    void cp_unpark(cp_word *, int)
    bint cp_has_submission(void *)
    ctypedef struct cp_room:
        cp_producer *producer
        uint64_t need
    bint cp_has_room(void *)
    ctypedef struct cp_any:
        const cp_consumer **rings
        uint32_t count
        const cp_word *kick
        uint64_t kick_seen
    bint cp_any_pending(void *)

cdef extern from "_poolcore/status.h" nogil:
    uint32_t CP_BUCKETS, CP_TALLIES, CP_RECORDS, CP_ROWS, CP_NAME, CP_STORY
    uint64_t CP_STARTING, CP_SERVING, CP_SPARE, CP_LEAVES, CP_CORRUPT
    ctypedef struct cp_tally:
        cp_word fid
        cp_word failed
        cp_word run_ns
        cp_word wait_ns
        cp_word run[192]
        cp_word wait[192]
    ctypedef struct cp_record:
        cp_word tid
        cp_word start
        cp_word ran_failed
        cp_word fid_waited
    ctypedef struct cp_shown:
        cp_word running
        cp_word recorded
        cp_tally tallies[64]
        cp_record records[4096]
    ctypedef struct cp_row:
        cp_word pid
        cp_word fd
        cp_word index
        cp_word stage
        cp_word started
        cp_word queued
        cp_word given
        cp_word done
    ctypedef struct cp_name:
        cp_word fid
        char name[120]
    ctypedef struct cp_now_shown "__typeof__(((cp_status *)0)->now)":
        cp_word at
        cp_word state
        cp_word limit
        cp_word processes
        cp_word submitted
        cp_word collected
        cp_word reaped
        cp_word succeeded
        cp_word failed
        cp_word lost
        cp_word cancelled
        cp_word expired
        cp_word callback_errors
        cp_word in_flight
        cp_word waiting_callbacks
        cp_word backlog
        cp_word workers
        cp_row rows[1024]
    ctypedef struct cp_status:
        cp_word sequence
        cp_word recovered
        cp_word told
        cp_now_shown now
        cp_tally ended[64]
        cp_name names[1024]
        char story[65536]
    void cp_tally_ran(cp_tally *, uint64_t)
    void cp_tally_waited(cp_tally *, uint64_t)
    uint64_t cp_tally_count(const cp_tally *)
    void cp_tally_add(cp_tally *, const cp_tally *)
    cp_record *cp_record_begin(cp_shown *, uint64_t, uint64_t, uint64_t, uint32_t)
    void cp_record_end(cp_shown *, cp_record *, uint64_t, bint)
    void cp_sequence_open(cp_word *)
    void cp_sequence_close(cp_word *)
    bint cp_sequence_read(const cp_word *, const cp_word *, uint64_t *, size_t)
