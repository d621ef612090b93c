# All structs, enums and fields of the compiled core; the verbs are in src/_poolcore/.
# The heading says which file there writes what stands below it.
cimport cython

include "../_poolcore/externs.pxi"


# ---- plain ----

cdef enum PickleOpcode:     # see CPython's pickletools
    OP_MARK = 0x28
    OP_EMPTY_TUPLE = 0x29
    OP_STOP = 0x2e
    OP_BINBYTES = 0x42
    OP_SHORT_BINBYTES = 0x43
    OP_BINFLOAT = 0x47
    OP_BININT = 0x4a
    OP_BININT1 = 0x4b
    OP_NONE = 0x4e
    OP_EMPTY_LIST = 0x5d
    OP_APPENDS = 0x65
    OP_BINUNICODE = 0x58
    OP_TUPLE = 0x74
    OP_PROTO = 0x80
    OP_TUPLE1 = 0x85
    OP_TRUE = 0x88
    OP_FALSE = 0x89
    OP_LONG1 = 0x8a
    OP_SHORT_BINUNICODE = 0x8c


# ---- codec ----

cdef enum Shape:
    PLAIN           # small, and without buffers
    ANY
    LARGE           # has large bytes


@cython.final
cdef class Codec:
    cdef object dumps
    cdef object loads
    cdef bint plain             # it is the module pickle
    cdef bint keeps_nothing     # `loads` is pickle's: no view of what it has read is left
    cdef uint64_t longest       # pickle that goes through a ring
    cdef uint64_t threshold     # bytes from which a buffer leaves the pickle for an arena


cdef struct Piece:
    const uint8_t *data
    uint64_t length
    uint64_t at             # in the extent


cdef struct Buffers:
    Py_buffer *items
    uint32_t count
    uint32_t room
    uint64_t length         # bytes of all


@cython.final
cdef class Gather:
    cdef uint64_t threshold
    cdef Buffers outside
    cdef Buffers stream


# ---- arena ----

cdef enum:
    SIZE_CLASSES = 4 * 36           # four an octave, from a page to the whole arena
    KEPT_BYTES = 512 << 20          # at most, in extents that are not in use
    KEPT_NS = 2000000000            # and for so long
    MAPPED_EXTENTS = 1024           # at most; the others are reached by pwrite
    ALIGNMENT = 64                  # of buffers within an extent


cdef struct Extent:
    uint64_t offset         # in the segment, for ever
    uint64_t capacity       # in bytes, for ever
    uint64_t touched        # bytes from its start that have pages
    uint64_t freed_at       # CLOCK_MONOTONIC ns
    uint8_t *address        # where we have mapped it, or NULL
    void *lent_to           # the reader that may look at it, or NULL
    uint32_t number         # its index
    bint held               # by a Parcel
    Extent *below           # in the stack of free ones of its size
    Extent *newer           # among the free ones that have pages
    Extent *older


@cython.final
cdef class Arena:
    cdef int fd                     # -1: the segment is gone
    cdef unsigned fork_generation
    cdef uint64_t next              # place of the next new extent
    cdef Extent **extents           # by number
    cdef uint32_t count
    cdef uint32_t room
    cdef uint32_t mapped            # extents that are
    cdef readonly uint64_t kept     # bytes of pages in free extents
    cdef Extent *free[SIZE_CLASSES] # stacks: the last one freed is the warmest
    cdef Extent *newest
    cdef Extent *oldest
    cdef void *owner
    cdef void (*on_kept)(void *owner) noexcept      # pages are kept from now on
    cdef void (*hear_returns)(void *owner) noexcept    # hears now what has been given back


@cython.final
cdef class Parcel:
    cdef Arena arena
    cdef Extent *extent
    cdef cp_parcel wire             # what the frame says


# ---- peer ----

cdef enum:
    MAPPINGS = 64                   # mappings kept that nobody looks at
    VIEW_FROM = 1 << 20             # payloads with buffers; shorter ones are copied out
    READ_BELOW = 1 << 18            # where a mapping costs more than reading
    LOST_TO_CHILDREN = 64 << 20     # in extents; a process that forks so often copies from then on


cdef struct Mapping:
    uint64_t offset
    uint64_t capacity
    uint8_t *address
    uint64_t left_at        # CLOCK_MONOTONIC ns


@cython.final
cdef class PeerArena:
    cdef int fd
    cdef bint own_fd                # ours to close
    cdef bint copies                # nothing lives on the mapping
    cdef unsigned fork_generation
    cdef uint64_t start             # of the arena in the segment
    cdef uint32_t unopened          # deliveries that will need the descriptor
    cdef Mapping mappings[MAPPINGS] # oldest first
    cdef uint32_t count
    cdef uint64_t kept              # bytes that they map
    cdef void *owner                # the Channel or WorkerEnd; NULL: it is gone
    cdef void (*give_back)(void *owner, uint32_t number) noexcept
    cdef void (*on_kept)(void *owner) noexcept


@cython.final
cdef class Delivery:
    cdef PeerArena peer
    cdef cp_parcel wire
    cdef uint64_t capacity          # of the extent
    cdef uint8_t *data              # NULL until somebody looks
    cdef uint8_t *address           # where it is mapped, or NULL
    cdef uint64_t forks             # forks that had begun then


@cython.final
cdef class SharedBuffer:
    cdef Delivery delivery
    cdef uint8_t *data
    cdef uint64_t length


# ---- functions ----

@cython.final
cdef class Function:
    cdef object target      # strong: the cache goes by its address
    cdef bytes pickled
    cdef uint32_t fid       # not 0, never used twice


# ---- channel ----

cdef struct Entry:
    PyObject *job           # owned; NULL: taken back meanwhile, and so is the reference
    uint64_t position       # of its frame in the submission ring


@cython.final
cdef class Channel:
    cdef object __weakref__
    cdef cp_header *header
    cdef cp_producer submission
    cdef cp_consumer completion
    cdef cp_ringer ringer           # wakes the worker
    cdef Entry *journal
    cdef uint64_t journal_head
    cdef uint64_t journal_tail
    cdef uint64_t journal_mask
    cdef uint32_t *known            # fid last defined for each place of the worker's table
    cdef uint64_t size              # of the mapping
    cdef PeerArena results
    cdef void *core                 # while it is attached
    cdef uint32_t *owed             # extents of the worker's that the ring had no room to give back
    cdef uint32_t owed_count
    cdef uint32_t owed_room
    cdef unsigned fork_generation
    cdef uint32_t load              # jobs in the journal
    cdef uint64_t given             # tasks pushed in its life
    cdef uint64_t most              # tasks it may be given; then it leaves
    cdef uint64_t nearly            # given so many: its successor is started
    cdef readonly bint leaving      # it has been told to leave
    cdef readonly bint wants_to_leave   # by itself; the supervisor then tells it
    cdef readonly uint32_t index    # its place among the pool's workers, from 0; its successor's, too
    cdef uint64_t unclaimed         # tid that was its next, unclaimed, at the last look; 0: none
    cdef uint64_t soft_next         # when the soft limit of its task is signalled again
    cdef readonly bint open         # takes tasks
    cdef bint held                  # but for as long as others overtake it (balance)
    cdef uint64_t turn              # core.turns when it last ended a task, or got its first
    cdef uint32_t pace              # ns that its last task took, as it says (collect)
    cdef uint32_t depth             # so many such tasks may queue here while others are idle (place)
    cdef readonly bint spare        # could take tasks, but there are workers enough
    cdef readonly uint64_t done     # tasks that it has ended
    cdef uint64_t started           # when it was made, CLOCK_MONOTONIC ns
    cdef public str stack           # of the task that a time limit has ended
    cdef bint unpublished           # frames were pushed since the last publish
    cdef readonly int segment_fd
    cdef int bell[2]
    cdef public long pid            # 0 until the template has told
    cdef readonly bint greeted      # its initializer has returned
    cdef object start_failure       # or has not: what remote.dump_error made of why, or its Delivery
    cdef readonly bint corrupt      # it wrote what no worker of ours writes
    cdef cp_shown *shown            # what it tells onlookers


# ---- job ----

cdef enum JobState:
    PENDING         # in the backlog or at a worker
    COLLECTED       # outcome here, callbacks waiting for dispatch
    DELIVERING      # its callbacks run
    FINISHED


cdef enum JobOutcome:
    NO_OUTCOME
    RAW_RESULT      # payload: pickled result, or None for None
    RAW_ERROR       # payload: what remote.dump_error made
    REASON          # payload: (exception class, arguments by name)
    NO_MEMORY       # the outcome found no room in the parent
    EXPIRED         # claimed too late, never called
    FOREIGN         # payload: a finished foreign result
    VALUE           # payload: the result itself
    EXCEPTION       # payload: the exception itself


cdef enum JobMark:
    ACK_DUE = 1     # on_acknowledge has to be called
    QUEUED = 2      # stands in the outbox
    DECODING = 4    # some thread is at it
    IS_FOREIGN = 8  # made by add()
    RETURNED = 16   # on_return has been called for it
    BACKLOGGED = 32 # stands in the backlog
    DOOMED = 64     # killed by us; payload: the reason
    INTERRUPTED = 128   # a KeyboardInterrupt came while its outcome was unpickled
    COUNTED = 256   # among those that succeeded or failed
    UNSEEN = 512    # it has failed, and nobody has looked
    OF_FUTURE = 1024    # its outcome is a future's; callbacks: that, once it may have to be told
    IN_WINDOW = 2048 # its callbacks are a Window, which gets it when it has ended
    OF_MANY = 4096  # its failure is raised where the results of a window are taken


@cython.final
cdef class AsyncResult:
    cdef object __weakref__
    cdef Core core
    cdef PyObject *next         # in the outbox or the backlog
    cdef PyObject *prev
    cdef PyObject *ahead        # some places later in the backlog, perhaps gone: to prefetch
    cdef object callbacks       # None, a callable, or a tuple of callables
    cdef object errbacks        # the same
    cdef object acknowledge     # on_acknowledge, an Acceptance or None; of a foreign job: its tid
    cdef object own_meta        # None until somebody asks
    cdef object payload         # pickled arguments: bytes or a Parcel; later the outcome: bytes or a Delivery
    cdef Function function      # None: the target is in the payload
    cdef Channel channel        # the worker that has the task; None in the backlog
    cdef Limits limits          # None: no time limit
    cdef uint64_t number        # the tid
    cdef uint64_t position      # of the frame in the channel's submission ring; of a foreign job: its result's address
    cdef uint64_t accepted      # when a worker claimed the task, if that is asked for; before: when it was submitted
    cdef int pid                # of the worker that ended it, 0: none
    cdef uint16_t flags         # of the frame
    cdef uint16_t marks
    cdef uint8_t state
    cdef uint8_t outcome


@cython.final
cdef class Limits:
    cdef readonly uint64_t soft
    cdef readonly uint64_t hard
    cdef readonly uint64_t expires  # CLOCK_MONOTONIC


@cython.final
cdef class Acceptance:
    cdef object acknowledge     # on_acknowledge() or None
    cdef object accept          # accept_callback(pid, time_accepted)


# ---- future ----

cdef enum FutureState:
    FOLLOWS             # its job
    SAID_RUNNING        # by somebody, and so no more to be cancelled
    SAID_CANCELLED      # by somebody; none of ours
    CANCEL_NOTIFIED     # cancelled
    HAS_ENDED           # its outcome is here


cdef class JobFuture:
    cdef AsyncResult job            # None once the outcome is here, if it ever had one
    cdef object owner               # failure_of(error, job): what it makes of what ended the task
    cdef object value
    cdef object error
    cdef FutureWaiters waiters      # None until somebody looks
    cdef list callbacks             # the same
    cdef AsyncResult withheld       # its job, collected while somebody held it
    cdef uint32_t holds             # of its condition
    cdef bint due                   # the job is collected, and its waiters are to be told
    cdef uint8_t state


# ---- futurewait ----

@cython.final
cdef class FutureCondition:
    cdef JobFuture future           # None: of one that is done
    cdef Core core


cdef class FutureWaiters(list):
    cdef Core core                  # None: of a future that was done when somebody looked


@cython.final
cdef class HelpingEvent:
    cdef Core core
    cdef bint happened


# ---- window ----

@cython.final
cdef class Window:
    cdef PyObject **entries     # owned; NULL: it has not ended. By place, modulo
    cdef uint64_t mask
    cdef readonly uint64_t count    # entries put in all
    cdef uint64_t arrived       # places filled, of one as completed
    cdef uint64_t taken
    cdef uint64_t size          # most entries that are put and not taken
    cdef readonly bint ordered
    cdef readonly bint over     # nothing more is put
    cdef readonly object error  # comes behind the last entry; or None
    cdef public object on_room  # called, once, when an entry is taken out; or None
    cdef readonly unsigned long consumer    # the thread that has asked last for what comes next


# ---- lists ----

cdef struct Jobs:
    PyObject *first
    PyObject *last
    uint64_t count


cdef enum:
    PREFETCH_AHEAD = 8      # places; memory takes as long as some of them


# ---- waiting ----

cdef enum WaitKind:
    WAIT_SLOT           # room below the limit
    WAIT_REAPED         # `reaped` has passed the target
    WAIT_COLLECTED      # `collected` has (inside a callback)
    WAIT_JOB            # a job is ready, or its callbacks are ours to run
    WAIT_FUTURE         # a future is done; with a target: and its waiters have been told
    WAIT_EVENT          # a HelpingEvent has happened
    WAIT_WINDOW         # something can be taken out of a window, or nothing will come
    WAIT_DECODED        # another thread has decoded a job's outcome
    WAIT_DRAINED        # nothing pending
    WAIT_DISPATCHER     # nobody runs callbacks
    WAIT_REAPER         # the reaper has something to dispatch, or shall end
    WAIT_LOOP           # an event loop: something was collected since it looked


cdef struct Waiter:
    WaitKind kind
    bint inside_dispatch
    bint woken
    PyObject *subject       # job, future, event or window, borrowed
    unsigned long thread
    uint64_t target         # a count; of WAIT_SLOT: bytes of the arguments; of WAIT_FUTURE: see there
    cp_word since           # of WAIT_SLOT: when it first slept, ns; 0: it has not. Set without the GIL
    PyThread_type_lock lock # of a follower, while it sleeps
    Waiter *next
    Waiter *prev


# ---- core ----

cpdef enum PoolState:
    IDLE
    STARTING
    RUNNING
    CLOSED          # no new tasks
    TERMINATED
    BROKEN          # past its restart budget


cpdef enum CallbacksIn:
    ANY_THREAD
    REAPER_ONLY
    CALLER_ONLY


@cython.final
cdef class Table:
    cdef list channels
    cdef PyObject **items       # borrowed from channels
    cdef cp_consumer **rings
    cdef uint32_t count


cdef struct Backlog:
    Jobs jobs
    PyObject *lately[PREFETCH_AHEAD]    # appended to it, in turn; perhaps gone
    uint64_t appended


@cython.final
cdef class FunctionTable:
    cdef dict by_id                 # id(target) -> Function
    cdef object last_target
    cdef Function last
    cdef uint32_t last_fid


@cython.final
cdef class Deadlines:
    cdef Limits limits              # of tasks that do not say otherwise; submit reads it
    cdef uint64_t limited           # jobs in flight with a soft or hard limit
    cdef uint64_t shortest          # limit among them, ns
    cdef uint64_t soft_again        # ns between two signals of one soft limit
    cdef uint64_t next_check        # when the supervisor looks next, CLOCK_MONOTONIC ns
    cdef list expiring              # heap of (when, number, job)


cdef struct Waiting:
    Waiter *first                   # in the order in which they came
    Waiter *last
    bint starving                   # the first who waits for a slot has waited long: the next one is its
    Waiter *leader                  # the one that collects and may park
    uint64_t epoch                  # of the last park
    cp_patience patience
    cp_word kick                    # raised when the leader shall look again
    cp_word inside                  # callers inside a wait; the reaper reads it without the GIL


cdef struct Reaper:
    Waiter *waiter                  # while its thread waits
    bint stop
    bint sleeps                     # on the doorbells, without a time limit; a submission ends it
    bint polls                      # it sleeps on the doorbells
    uint32_t quiet                  # looks in a row, with nothing in flight
    cp_patience patience
    cp_word due                     # it has something to do
    cp_word gathered                # collected by callers, who count it
    cp_word rung                    # it has been, and waits for the GIL: submitters look in its stead
    uint64_t gathered_seen
    int bell[2]                     # we ring it


cdef struct Loop:
    Waiter *waiter                  # NULL: there is no event loop
    bint listens                    # it is not looking by itself just now
    bint rung                       # its bell is
    bint crowded                    # somebody waits there for a slot (it says so)
    uint64_t seen                   # collected when it last looked
    uint64_t lookout_at             # when the reaper looks by the clock, CLOCK_MONOTONIC ns; 0: at once
    int bell[2]                     # for what comes over no ring
    int fd                          # readable while that or the doorbell is rung; -1: never asked for


@cython.final
cdef class Core:
    cdef object __weakref__
    cdef unsigned fork_generation
    cdef object given_logger        # None: celery_pool's own

    # what the pool is; submit and the waits read it
    cdef public int state
    cdef readonly object broken     # why it is BROKEN
    cdef uint64_t limit             # most in flight
    cdef uint64_t max_bytes         # most of pickled arguments in flight

    # the ledger (joblife.pxi, lookup.pxi); anybody reads it
    cdef readonly uint64_t bytes_in_flight
    cdef readonly uint64_t in_flight        # submitted and not collected
    cdef readonly uint64_t waiting_callbacks  # undelivered: collected, callbacks not returned
    cdef readonly uint64_t submitted
    cdef readonly uint64_t collected
    cdef readonly uint64_t reaped           # collected and callbacks returned
    cdef readonly uint64_t succeeded
    cdef readonly uint64_t failed           # with an exception, lost ones included
    cdef readonly uint64_t lost
    cdef readonly uint64_t cancelled
    cdef readonly uint64_t expired
    cdef readonly uint64_t callback_errors
    cdef uint64_t last_number       # tid
    cdef uint32_t since_reap        # submissions (submit.pxi, dispatch.pxi)

    # jobs, by where they are besides the journals
    cdef Backlog backlog            # backlog.pxi; its length is anybody's
    cdef Jobs due                   # collected, its future's waiters are to be told (joblife, future, futurewait)
    cdef uint64_t untold            # those, and some that somebody holds or is about to tell of
    cdef Jobs outbox                # collected, its callbacks have not begun (joblife, dispatch, lookup)
    cdef Jobs grave                 # finished in collect; references to be dropped (joblife)
    cdef dict foreign               # tid -> job that add() has queued, until its callbacks have returned (foreign)
    cdef dict foreign_results       # the same, by the address of its result (foreign)
    cdef object poller              # of those that cannot notify (foreign)

    # workers
    cdef public uint32_t processes  # most that are given tasks (the supervisor)
    cdef Table table                # state.pxi
    cdef bint imbalanced            # a worker is idle while tasks wait at another (place, balance)
    cdef uint32_t warm              # place in the table of the one that got the last task (place)
    cdef uint32_t deepest           # no worker's depth is more (place)
    cdef uint64_t turns             # tasks that workers have ended (collect)
    cdef uint64_t overtaking        # `turns`, at which to look for workers that are overtaken (balance)
    cdef FunctionTable functions    # functions.pxi

    # for the supervisor
    cdef public int supervisor_bell # rung when a worker needs looking after; -1: nobody listens
    cdef list sentences             # (channel, what, task, signal, grace): for it to carry out (kill, limits)
    cdef bint wake_at_first_task    # it wants to know when work begins
    cdef Deadlines deadlines        # limits.pxi

    # shared memory
    cdef cp_control *control
    cdef readonly int segment_fd
    cdef Codec codec
    cdef Arena arguments
    cdef readonly uint64_t ring_size
    cdef bint copies                # results do not live in shared memory
    cdef bint keeping               # the supervisor knows that memory is kept (state.pxi)
    cdef int bell[2]                # workers ring it

    # dispatch.pxi
    cdef unsigned long dispatcher   # thread that runs callbacks, 0: none; anybody reads it
    cdef AsyncResult delivering     # by an overridden on_return
    cdef object interrupt           # SystemExit or KeyboardInterrupt from a callback
    cdef int callbacks_in
    cdef bint overridden            # the facade has its own on_return or on_ready
    cdef object keeper              # the facade, while anything is pending (joblife.pxi)

    # who waits
    cdef Waiting waiting            # waiting.pxi; eventloop.pxi takes and gives the lead
    cdef Reaper reaper              # reaper.pxi
    cdef Loop loop                  # eventloop.pxi; the reaper looks out for it
    cdef int64_t look_after         # ns until a leader to whom nothing happens looks by itself (collect, waiting)

    # onlookers: status.pxi
    cdef cp_status *status
    cdef uint64_t shown             # by the counters: what it tells


# ---- submit ----

@cython.final
cdef class Options:
    cdef Limits limits          # instead of the pool's
    cdef object accept          # accept_callback or None
    cdef int64_t slot_deadline  # see deadline_after; 0: do not wait for a slot
    cdef uint16_t marks         # of the job


# ---- calls ----

cdef class Results:
    cdef object __weakref__
    cdef Core core
    cdef object keeper          # the TaskPool
    cdef object owner           # says what is raised for what ended a task; or None
    cdef readonly Window window
    cdef bint chunked           # a job's value is a list of values
    cdef list values            # the rest of a chunk, from `at` on; None: it is used up
    cdef Py_ssize_t at
    cdef readonly object error  # by gather: the first of the jobs'


# ---- taskpool ----

cdef class TaskPoolBase:
    cdef object __weakref__
    cdef Core core


# ---- awaiting ----

cdef class AwaitedBase:
    cdef public TaskPoolBase _pool
    cdef public object _loop            # that it belongs to, or None
    cdef public object _looking


# ---- foreign ----

@cython.final
cdef class ForeignDone:
    cdef AsyncResult job            # None: it is not in the queue yet
    cdef bint done


# ---- workerend ----

@cython.final
cdef class WorkerEnd:
    cdef cp_control *control
    cdef cp_header *header
    cdef cp_consumer submission
    cdef cp_producer completion
    cdef cp_ringer parent
    cdef cp_patience patience
    cdef Codec codec
    cdef Arena results
    cdef PeerArena arguments
    cdef list owed                  # extents that the ring had no room to give back
    cdef uint64_t size
    cdef uint64_t epoch             # of our last park
    cdef uint64_t heard             # submission frames before this: what they give back is known
    cdef readonly uint64_t tasks_done   # claimed and ended
    cdef tuple leave_on             # what a task may not raise without ending the worker's life
    cdef bint errands               # something is to do between two tasks: owed, or leaving
    cdef bint leaving               # after the task that runs, or the next one
    cdef bint serving
    cdef bint told                  # the parent, that it leaves
    cdef bint skipped               # revoked frames since room was last given back
    cdef uint64_t began             # when it claimed the last frame, CLOCK_MONOTONIC ns; 0: it has waited since
    cdef uint32_t pace              # ns that the last task took
    cdef int bell
    cdef unsigned fork_generation
    cdef cp_frame *current          # task whose target is being called, else NULL
    cdef list functions             # by fid modulo: (fid, pickled, callable or None)
    cdef cp_shown *shown            # to onlookers
    cdef cp_tally *tally            # of the task that runs or has run last, until its time is counted; or NULL
    cdef cp_record *record          # its, if tasks are recorded; or NULL
    cdef bint failed                # has it
    cdef uint8_t places[1024]       # of a function in `tallies`, by fid modulo


# ---- onlooker ----

@cython.final
cdef class PoolMap:
    cdef uint8_t *base
    cdef const cp_status *status


@cython.final
cdef class WorkerMap:
    cdef uint8_t *base
    cdef uint64_t size
    cdef uint64_t ring_size
    cdef const cp_shown *shown
