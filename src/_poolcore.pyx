# cython: language_level=3, binding=True, embedsignature=True
# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The compiled core: rings, claim words, limit check, reap loop, worker loop.

Fields and structs stand in celery_pool/_poolcore.pxd; the verbs have files of their
own in src/_poolcore/, one subject each: what follows is their table of contents. The
C headers there hold the shared-memory protocol (layout.h says what lies where).
"""
cimport cython

import functools
import time

from os import strerror as os_strerror

from celery_pool import einfo as _einfo
from celery_pool import errors as _errors
from celery_pool.host import forkguard as _forkguard
from celery_pool import foreign as _foreign
from celery_pool.wire import functions as _functions
from celery_pool.wire import remote as _remote

# ---- ground ----
include "_poolcore/debug.pxi"
include "_poolcore/forks.pxi"
include "_poolcore/os.pxi"
include "_poolcore/clock.pxi"
# ---- payloads: pickles, and what is too long for a ring ----
include "_poolcore/plain.pxi"
include "_poolcore/codec.pxi"
include "_poolcore/arena.pxi"
include "_poolcore/peer.pxi"
include "_poolcore/parcels.pxi"
# ---- one worker, as the parent sees it ----
include "_poolcore/functions.pxi"
include "_poolcore/journal.pxi"
include "_poolcore/channel.pxi"
# ---- jobs ----
include "_poolcore/lists.pxi"
include "_poolcore/backlog.pxi"
include "_poolcore/job.pxi"
include "_poolcore/window.pxi"
include "_poolcore/joblife.pxi"
include "_poolcore/future.pxi"
include "_poolcore/futurewait.pxi"
# ---- verbs: what happens to every task ----
include "_poolcore/status.pxi"
include "_poolcore/state.pxi"
include "_poolcore/given.pxi"
include "_poolcore/submit.pxi"
include "_poolcore/calls.pxi"
include "_poolcore/place.pxi"
include "_poolcore/collect.pxi"
include "_poolcore/dispatch.pxi"
include "_poolcore/waiting.pxi"
include "_poolcore/reaper.pxi"
include "_poolcore/eventloop.pxi"
# ---- verbs: what happens to some ----
include "_poolcore/withdraw.pxi"
include "_poolcore/balance.pxi"
include "_poolcore/limits.pxi"
include "_poolcore/kill.pxi"
include "_poolcore/recovery.pxi"
include "_poolcore/drain.pxi"
include "_poolcore/lookup.pxi"
include "_poolcore/foreign.pxi"
include "_poolcore/invariants.pxi"
# ---- doors: what Python sees ----
include "_poolcore/core.pxi"
include "_poolcore/taskpool.pxi"
include "_poolcore/awaiting.pxi"
# ---- the child ----
include "_poolcore/workerend.pxi"
# ---- who looks on ----
include "_poolcore/onlooker.pxi"
