# cython: language_level=3, binding=True, embedsignature=True
# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The compiled core: rings, claim words, limit check, reap loop, worker loop.

Topics have files of their own in src/_poolcore/; the C headers there hold the
shared-memory protocol (layout.h says what lies where).
"""
cimport cython

import time

from os import strerror as os_strerror

from celery_pool import einfo as _einfo
from celery_pool import errors as _errors
from celery_pool.host import forkguard as _forkguard
from celery_pool import foreign as _foreign
from celery_pool.wire import functions as _functions
from celery_pool.wire import remote as _remote

include "_poolcore/debug.pxi"
include "_poolcore/forks.pxi"
include "_poolcore/plain.pxi"
include "_poolcore/codec.pxi"
include "_poolcore/arena.pxi"
include "_poolcore/peer.pxi"
include "_poolcore/functions.pxi"
include "_poolcore/channel.pxi"
include "_poolcore/job.pxi"
include "_poolcore/lists.pxi"
include "_poolcore/core.pxi"
include "_poolcore/backlog.pxi"
include "_poolcore/submit.pxi"
include "_poolcore/collect.pxi"
include "_poolcore/dispatch.pxi"
include "_poolcore/waiting.pxi"
include "_poolcore/eventloop.pxi"
include "_poolcore/recovery.pxi"
include "_poolcore/balance.pxi"
include "_poolcore/limits.pxi"
include "_poolcore/kill.pxi"
include "_poolcore/foreign.pxi"
include "_poolcore/facade.pxi"
include "_poolcore/workerend.pxi"
