"""A worker that scribbles over the memory it shares with the parent: the parent neither crashes
nor hangs, only workers are lost, and every task ends.

Each case runs in a process of its own, so that a crash is a failure here and not the end of
the run.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from celery_pool import _poolcore
from support import run_script
from wire import parcel

pytestmark = pytest.mark.timeout(60)

# ---- in the worker ----

PAGE = 4096
LINE = 64
WORKER_EPOCH, SUBMISSION, COMPLETION = LINE, 2 * LINE, 4 * LINE  # in the header
HELLO, START_FAILED, ACK, RESULT, ERROR, EXPIRED, LEAVING, GIVE_BACK = range(5, 13)
IN_ARENA = 8
READY, CLAIMED, DONE, REVOKED, KILLED = range(1, 6)


class Scribbler:
    """The worker's own mapping of its segment."""

    def __init__(self) -> None:
        for line in Path("/proc/self/maps").read_text().splitlines():
            if "memfd:celery_pool worker" in line:
                start, end = (int(text, 16) for text in line.split()[0].split("-"))
                if end - start > PAGE:
                    break
        else:
            raise RuntimeError("no segment")
        self.memory = (ctypes.c_ubyte * (end - start)).from_address(start)
        self.shown = end - start - _poolcore.layout()["shown"]
        self.ring = (self.shown - PAGE) // 2

    def put(self, at: int, data: bytes) -> None:
        self.memory[at : at + len(data)] = data

    def word(self, at: int) -> int:
        return struct.unpack("Q", bytes(self.memory[at : at + 8]))[0]

    def put_word(self, at: int, value: int) -> None:
        self.put(at, struct.pack("Q", value & (1 << 64) - 1))

    def publish(self, kind: int, payload: bytes = b"", **fields: int) -> None:
        """One more completion frame, as it should be but for the given fields."""
        tail = self.word(COMPLETION)
        size = (32 + len(payload) + LINE - 1) // LINE * LINE
        frame = {
            "size": size,
            "kind": kind,
            "flags": 0,
            "fid": 0,
            "length": len(payload),
            "claim": self.own_tid(),
            "start": 0,
            **fields,
        }
        at = PAGE + self.ring + tail % self.ring
        self.put(at, struct.pack("IHHIIQQ", *frame.values()) + payload)
        self.put_word(COMPLETION, tail + size)

    def own_frame(self) -> int:
        """Where the frame of the running task lies."""
        at = self.word(SUBMISSION + LINE)
        while True:
            place = PAGE + at % self.ring
            size, kind = struct.unpack("IH", bytes(self.memory[place : place + 6]))
            if kind == 2 and self.word(place + 16) & 7 == CLAIMED:
                return place
            if size < LINE or at >= self.word(SUBMISSION):
                raise RuntimeError("no task is claimed")
            at += size

    def own_tid(self) -> int:
        return self.word(self.own_frame() + 16) >> 3


DEEDS = {
    "unknown kind": lambda s, r: s.publish(99),
    "kind 0": lambda s, r: s.publish(0),
    "submission frame": lambda s, r: s.publish(2),
    "size 0": lambda s, r: s.publish(RESULT, size=0),
    "odd size": lambda s, r: s.publish(RESULT, size=65),
    "huge size": lambda s, r: s.publish(RESULT, size=0xFFFFFFC0),
    "length beyond size": lambda s, r: s.publish(RESULT, b"x", length=1000),
    "huge length": lambda s, r: s.publish(RESULT, length=0xFFFFFFFF),
    "tid of nobody": lambda s, r: s.publish(RESULT, claim=r.getrandbits(64)),
    "tid of the next task": lambda s, r: s.publish(RESULT, claim=s.own_tid() + 1),
    "acknowledgement unasked for": lambda s, r: s.publish(ACK),
    "random pickle": lambda s, r: s.publish(RESULT, r.randbytes(200)),
    "random error": lambda s, r: s.publish(ERROR, r.randbytes(200)),
    "error without text": lambda s, r: s.publish(ERROR),
    "error of another shape": lambda s, r: s.publish(ERROR, b"\x80\x04K\x01."),
    "expired, though it runs": lambda s, r: s.publish(EXPIRED),
    "result twice": lambda s, r: [s.publish(RESULT, claim=t) for t in [s.own_tid()] * 2],
    "second hello": lambda s, r: s.publish(HELLO),
    "start failed, late": lambda s, r: s.publish(START_FAILED, r.randbytes(100)),
    "start failed without text": lambda s, r: s.publish(START_FAILED),
    "short extent": lambda s, r: s.publish(RESULT, b"x" * 8, flags=IN_ARENA),
    "extent in the rings": lambda s, r: s.publish(RESULT, parcel(0, 4096), flags=IN_ARENA),
    "extent past the end": lambda s, r: s.publish(RESULT, parcel(1 << 46, 1 << 20), flags=IN_ARENA),
    "extent that wraps": lambda s, r: s.publish(
        RESULT, parcel((1 << 64) - 4096, 8192), flags=IN_ARENA
    ),
    "extent of 64 TiB": lambda s, r: s.publish(
        RESULT, parcel(1 << 30, (1 << 46) - (1 << 30)), flags=IN_ARENA
    ),
    "extent of nothing": lambda s, r: s.publish(RESULT, parcel(1 << 30, 0), flags=IN_ARENA),
    "extent of buffers without end": lambda s, r: s.publish(
        RESULT, parcel(1 << 30, 5000, stream=100, count=600), flags=IN_ARENA
    ),
    "stream beyond its extent": lambda s, r: s.publish(
        RESULT, parcel(1 << 30, 5000, stream=r.getrandbits(64) | 8192), flags=IN_ARENA
    ),
    "gives back what it never had": lambda s, r: s.publish(GIVE_BACK, fid=r.getrandbits(32)),
    "extent of zeros": lambda s, r: s.publish(RESULT, parcel(1 << 30, 5000), flags=IN_ARENA),
    "start failed in the arena": lambda s, r: s.publish(
        START_FAILED, parcel(1 << 30, (1 << 46) - (1 << 30)), flags=IN_ARENA
    ),
    "completion tail ahead": lambda s, r: s.put_word(COMPLETION, s.word(COMPLETION) + s.ring),
    "completion tail far ahead": lambda s, r: s.put_word(COMPLETION, 1 << 60),
    "completion tail odd": lambda s, r: s.put_word(COMPLETION, s.word(COMPLETION) + 1),
    "completion tail back": lambda s, r: s.put_word(COMPLETION, s.word(COMPLETION) - LINE),
    "submission head ahead": lambda s, r: s.put_word(SUBMISSION + LINE, 1 << 50),
    "submission head odd": lambda s, r: s.put_word(SUBMISSION + LINE, 7),
    "submission head back": lambda s, r: s.put_word(SUBMISSION + LINE, (1 << 64) - LINE),
    "submission tail": lambda s, r: s.put_word(SUBMISSION, r.getrandbits(64)),
    "claim word random": lambda s, r: s.put_word(s.own_frame() + 16, r.getrandbits(64)),
    "claim word done": lambda s, r: s.put_word(s.own_frame() + 16, s.own_tid() << 3 | DONE),
    "claim word revoked": lambda s, r: s.put_word(s.own_frame() + 16, s.own_tid() << 3 | REVOKED),
    "claim word killed": lambda s, r: s.put_word(s.own_frame() + 16, s.own_tid() << 3 | KILLED),
    "start long ago": lambda s, r: s.put_word(s.own_frame() + 24, 0),
    "start far ahead": lambda s, r: s.put_word(s.own_frame() + 24, (1 << 64) - 1),
    "park epoch": lambda s, r: s.put_word(WORKER_EPOCH, r.getrandbits(64)),
    "random header": lambda s, r: s.put(0, r.randbytes(PAGE)),
    "random submission ring": lambda s, r: s.put(PAGE, r.randbytes(s.ring)),
    "random completion ring": lambda s, r: s.put(PAGE + s.ring, r.randbytes(s.ring)),
    "shown counts": lambda s, r: s.put(s.shown, r.randbytes(300_000)),
    "shown task anywhere": lambda s, r: s.put_word(s.shown, r.getrandbits(64)),
    "shown task beyond the ring": lambda s, r: s.put_word(s.shown, 1 + s.ring - 32),
    "shown records without end": lambda s, r: s.put_word(s.shown + 8, (1 << 64) - 1),
    "random all": lambda s, r: s.put(0, r.randbytes(PAGE + 2 * s.ring)),
    "zeros all": lambda s, r: s.put(0, bytes(PAGE + 2 * s.ring)),
}


def random_deed(s: Scribbler, r: random.Random) -> None:
    """Words and frames at random, near what the parent looks at."""
    places = [
        WORKER_EPOCH,
        *(SUBMISSION + LINE * i for i in range(2)),
        *(COMPLETION + LINE * i for i in range(2)),
        s.own_frame() + 8 * r.randrange(8),
        PAGE + s.ring + s.word(COMPLETION) % s.ring + 8 * r.randrange(8),
    ]
    for _ in range(r.randrange(1, 4)):
        at = r.choice(places)
        values = (r.getrandbits(64), s.word(at) + LINE * r.randrange(-4, 5), r.getrandbits(8), 0)
        s.put_word(at, r.choice(values))
        if r.random() < 0.5:
            s.publish(
                r.randrange(12),
                r.randbytes(r.randrange(100)),
                flags=r.getrandbits(r.choice((0, 4, 16))),
                length=r.choice((0, 1, 16, 32, r.getrandbits(32))),
                size=r.choice((64, 128, LINE * r.randrange(64), r.getrandbits(32))),
                claim=s.own_tid() + r.choice((0, 0, 0, 1, r.getrandbits(61))),
            )


def scribble(name: str, seed: int, then: str) -> str:
    r = random.Random(seed)
    s = Scribbler()
    if name == "at random":
        with contextlib.suppress(RuntimeError):  # it has overwritten its own claim word
            random_deed(s, r)
    else:
        DEEDS[name](s, r)
    if then == "die":
        os._exit(1)
    if then == "stay":
        time.sleep(0.05)
    return "survived"


# ---- the parent, in a process of its own ----


def play(cases: list[tuple[str, int, str]]) -> None:
    """Runs hostile tasks among others in one pool; raises if a task does not end."""
    import resource

    import tasks
    from celery_pool import TaskPool
    from support import Log

    # an extent that claims to be huge must not become that
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    log = Log()
    p = TaskPool(100, processes=2, context="fork", logger=log.logger, max_restarts=10_000)
    p.run()
    killed = 0
    for name, seed, then in cases:
        print(name, seed, then, flush=True)
        results = [p.apply_async(tasks.same, (i,)) for i in range(6)]
        results.append(p.apply_async(scribble, (name, seed, then)))
        results += [p.apply_async(tasks.same, (i,)) for i in range(6, 12)]
        killed += end_all(p, results)
        # whatever has become of that worker, the pool works
        results = [p.apply_async(tasks.same, (i,)) for i in range(4)]
        killed += end_all(p, results)
    s = p.statistics()
    assert s.in_flight == s.waiting_callbacks == 0, s
    assert s.submitted == s.succeeded + s.failed == len(cases) * 17, s
    p.close()
    assert p.join(15)
    assert "the supervisor has failed" not in log.text, log.text
    print("all ended;", s.failed, "failed;", killed, "liars killed;", dict(s.exits))


def end_all(p: Any, results: list[Any]) -> int:
    """A worker may lie: it has done a task and tells nobody, or never ends it. Killing the
    workers has to be enough then. Returns how many had to be."""
    end = time.monotonic() + 0.5
    for r in results:
        r.wait(max(0, end - time.monotonic()))
    liars = p.get_worker_pids() if not all(r.ready() for r in results) else []
    for pid in liars:
        os.kill(pid, signal.SIGKILL)
    for r in results:
        r.wait(15)
        assert r.ready(), (r, p.statistics())
    return len(liars)


SCRIPT = """
import json, sys
sys.path.append(sys.argv[2])
import test_hostile_worker
test_hostile_worker.play(json.loads(sys.argv[1]))
"""


def run_cases(cases: list[tuple[str, int, str]]) -> None:
    ended = run_script(SCRIPT, json.dumps(cases), str(Path(__file__).parent), timeout=55)
    assert ended.returncode == 0, (
        f"{ended.returncode}\n{ended.stdout[-500:]}\n{ended.stderr[-3000:]}"
    )
    assert "all ended" in ended.stdout
    print(ended.stdout.splitlines()[-1])


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="finds the segment in /proc")


@needs_proc
@pytest.mark.parametrize("then", ["return", "stay", "die"])
def test_garbage(then):
    run_cases([(name, 1, then) for name in DEEDS])


@needs_proc
@pytest.mark.parametrize("seed", range(2))
def test_garbage_at_random(seed):
    r = random.Random(seed)
    run_cases(
        [
            ("at random", r.getrandbits(32), r.choice(("return", "stay", "stay", "die")))
            for _ in range(40)
        ]
    )
