"""Numbers, strings, bytes, None and tuples of them: their pickles are written by the core."""

from __future__ import annotations

import pickle
import random
import struct
import sys

import pytest

import tasks
from celery_pool._poolcore import read_plain
from celery_pool.taskpool import Results, Window
from support import DEADLINE

EDGES = [
    [0, 1, -1, True, False, None],
    [127, 128, 255, 256, -128, -129, 65535, 65536],
    [2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1],
    [2**64, 10**30, -(10**30)],
    [0.0, -0.0, 1.5, -1e300, 5e-324, float("inf"), float("-inf"), float("nan"), sys.float_info.max],
    ["", "a", "a" * 254, "a" * 255, "a" * 256, "a" * 470, "a" * 480, "a" * 600, "\0\x7f"],
    ["\x80", "ä" * 100, "€", "𝄞" * 60, "\ud800", "a\udfff"],
    [b"", b"\0", b"x" * 254, b"x" * 255, b"x" * 256, b"x" * 470, b"x" * 500, b"x" * 5000],
    [(), (1,), (1, "2"), (1, 2, 3), (1, 2, 3, 4), tuple(range(200)), ((), (1,)), ("a" * 300,) * 2],
    [bytearray(b"x"), [1], {"a": 1}, {1}, frozenset([1]), 1j, range(3), Ellipsis],
]  # fmt: skip


class Int(int):
    pass


class Str(str):
    pass


class Bytes(bytes):
    pass


class Tuple(tuple):
    pass


def shown(value):
    return type(value), repr(value)


@pytest.mark.parametrize("values", EDGES, ids=lambda values: repr(values[0])[:20])
def test_edges(pool, values):
    """As an argument (a tuple of one), among others, and as a result."""
    p = pool(64, processes=1)
    for value in values:
        for args in ((value,), (value, value), ("before", value, 7), (1, 2, 3, value)):
            seen = p.apply_async(tasks.all_of, args).get(DEADLINE)
            assert shown(seen) == shown(args)
        assert shown(p.apply_async(tasks.same, (value,)).get(DEADLINE)) == shown(value)


@pytest.mark.parametrize("kind", [Int, Str, Bytes, Tuple])
def test_subclasses_stay_what_they_are(pool, kind):
    p = pool(4, processes=1)
    value = kind(3) if kind is Int else kind("3") if kind is Str else kind(b"3")
    seen = p.apply_async(tasks.same, (value,)).get(DEADLINE)
    assert shown(seen) == shown(value)


def some_value(rng: random.Random, depth: int = 2):
    choice = rng.randrange(8 if depth else 6)
    if choice == 0:
        return rng.choice([None, True, False])
    if choice == 1:
        return rng.getrandbits(rng.randrange(1, 80)) * rng.choice([1, -1])
    if choice == 2:
        return struct.unpack("d", rng.randbytes(8))[0]
    if choice == 3:
        return rng.randbytes(rng.randrange(300))
    if choice == 4:
        return "".join(chr(rng.randrange(128)) for _ in range(rng.randrange(300)))
    if choice == 5:
        return "".join(chr(rng.randrange(1, 0x11000)) for _ in range(rng.randrange(20)))
    return tuple(some_value(rng, depth - 1) for _ in range(rng.randrange(6)))


@pytest.mark.parametrize("value", [value for values in EDGES[:8] for value in values], ids=repr)
def test_what_is_read_is_what_pickle_reads(value):
    """Also of a pickle that is cut off, or has a byte that no worker of ours writes."""
    written = []

    def note(data):
        value = read_plain(data)
        if value is not None:
            try:
                expected = pickle.loads(data)
            except Exception as error:
                pytest.fail(f"{data!r} was read as {value!r}, and pickle says {error!r}")
            assert shown(value[0]) == shown(expected)
            written.append(data)

    head, end = b"\x80\x05", b"."
    for pickled in [*pickles_by_hand(value), *lists_by_hand(value)]:
        data = head + pickled + end
        note(data)
        for length in range(len(data)):
            note(data[:length])
        rng = random.Random(7)
        for _ in range(300):
            place = rng.randrange(len(data))
            note(data[:place] + rng.randbytes(1) + data[place + 1 :])
    assert written or pickles_by_hand(value) == []


def pickles_by_hand(value):
    """By the opcodes that the core writes; none of what it does not write."""
    if value is None or type(value) is bool:
        item = {None: b"N", True: b"\x88", False: b"\x89"}[value]
    elif type(value) is int and -(2**63) <= value < 2**63:
        if 0 <= value < 256:
            item = b"K" + bytes([value])
        elif -(2**31) <= value < 2**31:
            item = b"J" + struct.pack("<i", value)
        else:
            item = b"\x8a\x08" + struct.pack("<q", value)
    elif type(value) is float:
        item = b"G" + struct.pack(">d", value)
    elif type(value) in (str, bytes) and len(value) < 400:
        text = value if type(value) is bytes else value.encode(errors="surrogatepass")
        short, long = (b"\x8c", b"X") if type(value) is str else (b"C", b"B")
        size = bytes([len(text)]) if len(text) < 256 else struct.pack("<I", len(text))
        item = (short if len(text) < 256 else long) + size + text
        if not text.isascii() and type(value) is str:
            return []
    else:
        return []
    return [item, item + b"\x85", item + b"K\x07\x86", b"(" + 4 * item + b"t", b"(" + item + b"t"]


def lists_by_hand(value):
    """Of numbers, and of tuples of them."""
    if type(value) in (str, bytes) or pickles_by_hand(value) == []:
        return []
    item = pickles_by_hand(value)[0]
    inside = [item, 5 * item, item + b"\x85", 2 * item + b"\x86)N", 5 * item + b"\x87" + item]
    return [b"](" + items + b"e" for items in inside] + [b"]"]


NUMBERS = [0, 1, -1, 255, 256, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63), 1.5, float("inf"), None]
LISTS = [
    [],
    NUMBERS,
    [True, False, None] * 1000,
    list(range(5000)),
    [(i,) for i in range(3000)],
    [(), (1,), (1, 2.5), (True, None, 2**40), 7],
    [(1, 2, 3, 4)],
    [((1,),)],
    [1, 2**64],
    [1, "a"],
    [1, [2]],
    list(range(1 << 20, (1 << 20) + 11_000)),  # about as long as they may be
    list(range(1 << 20, (1 << 20) + 12_500)),
    [1.5] * 20_000,
    [tuple([2**40] * 3)] * 5_000,
    [Ellipsis],
]


@pytest.mark.parametrize("value", LISTS, ids=lambda value: f"{len(value)} {value[:1]!r}")
def test_lists(pool, value):
    p = pool(4, processes=1)
    assert shown(p.apply_async(tasks.same, (value,)).get(DEADLINE)) == shown(value)
    window = Window()
    results = Results(p, window, chunked=True)
    p._feed(window, tasks.same, iter([value or [0]]), chunked=True)
    p._end_feed(window)
    assert shown(list(results)) == shown(value or [0])


def test_random_values(pool):
    p = pool(500, processes=2)
    rng = random.Random(20)
    given = [tuple(some_value(rng) for _ in range(rng.randrange(6))) for _ in range(5000)]
    results = [p.apply_async(tasks.all_of, args) for args in given]
    for args, result in zip(given, results, strict=True):
        assert shown(result.get(DEADLINE)) == shown(args)
