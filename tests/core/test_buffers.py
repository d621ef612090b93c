"""Arrays and other buffers, there and back: every kind, around every size that matters."""
# ruff: noqa: E402  # what follows importorskip needs numpy

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest

np = pytest.importorskip("numpy")

import buffer_tasks
import tasks
from celery_pool import PayloadTooLarge, PoolFull
from segments import memory_available, payload_bytes
from support import DEADLINE, Background, Calls

KIB = 1 << 10
MIB = 1 << 20
PAGE = 4096
BOUNDARIES = (16 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, MIB)


def same(a, b):
    """Equal in type, shape, order, flags and every byte (NaN included)."""
    assert type(a) is type(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.flags.writeable == b.flags.writeable
    assert a.flags.f_contiguous == b.flags.f_contiguous
    if a.dtype.hasobject:
        assert a.tolist() == b.tolist()
    else:
        assert a.tobytes() == b.tobytes()


def read_only(array):
    array.flags.writeable = False
    return array


def kinds(size):
    """Arrays of about `size` bytes."""
    raw = buffer_tasks.array(size // 96 * 96)
    floats = raw.view(np.float64)
    return {
        "bytes": raw,
        "bool": raw % 2 == 0,
        "big endian": raw.view(">i4"),
        "float with NaN": floats,
        "complex": raw.view(np.complex128),
        "dates": raw.view("M8[ns]"),
        "text": raw.view(np.uint32) % 1000 > 500,
        "fixed text": np.frombuffer(b"abcd" * (size // 4), "S4"),
        "structured": raw.view([("a", "<i4"), ("b", "<f8"), ("c", "u1", 12)]),
        "F order": np.asfortranarray(raw.reshape(-1, 12)),
        "C order": raw.reshape(12, -1),
        "not contiguous": raw.reshape(-1, 12)[:, ::2],
        "backwards": raw[::-1],
        "read-only": read_only(raw.copy()),
        "read-only F": read_only(np.asfortranarray(raw.reshape(-1, 12))),
        "0-d": np.array(3.5),
        "empty": np.empty((0, 7)),
        "objects": np.array([1, "two", None, [3]] * 10, dtype=object),
        "matrix": raw.view(np.float64).reshape(-1, 2).view(np.matrix),
    }


@pytest.mark.parametrize("size", [100, 20 * KIB, 3 * MIB])
def test_arrays_there_and_back(pool, start_method, size):
    p = pool(64, processes=2)
    made = kinds(size)
    results = {k: p.apply_async(tasks.same, (a,)) for k, a in made.items()}
    for k, a in made.items():
        try:
            # what pickle itself makes of it decides what is right
            same(results[k].get(DEADLINE), pickle.loads(pickle.dumps(a, 5)))
        except AssertionError as error:
            raise AssertionError(k) from error


def sizes():
    for middle in BOUNDARIES:
        for extra in (0, 1, -1, PAGE, -PAGE, -200, 200):
            yield middle + extra
    yield from (PAGE - 1, PAGE, PAGE + 1, 5 * MIB + 17)


@pytest.mark.parametrize("copy", [False, True])
def test_every_size_around_a_boundary(pool, copy):
    p = pool(8, processes=2, copy=copy)
    for round_ in range(2):  # fresh extents, then used ones
        for size in sizes():
            data = buffer_tasks.array(size, size + round_)
            found = p.apply_async(tasks.same, (data,)).get(DEADLINE)
            same(found, data)


@pytest.mark.parametrize("size", list(BOUNDARIES))
def test_the_other_kinds_of_bytes(pool, size):
    p = pool(8, processes=1)
    for n in (size - 1, size, size + 1):
        data = tasks.pattern(n)
        text = data.decode("latin-1")
        value = (data, bytearray(data), {"key": data}, [text], text[: n // 2] + "\udc80")
        assert p.apply_async(tasks.same, value[:1]).get(DEADLINE) == data
        found = p.apply_async(tasks.same, (value,)).get(DEADLINE)
        assert found == value
        assert [type(v) for v in found] == [type(v) for v in value]


@pytest.mark.parametrize("size", [100, 20 * KIB, 3 * MIB])
def test_bare_buffers(pool, size):
    """They arrive as something with the same bytes, writable or not; as with pickle,
    what exactly is left open."""
    p = pool(8, processes=1)
    data = tasks.pattern(size)
    for made, locked in ((bytearray(data), False), (data, True)):
        there = p.apply_async(buffer_tasks.look_at, (pickle.PickleBuffer(made),))
        back = p.apply_async(buffer_tasks.bare_buffer, (size, locked))
        assert there.get(DEADLINE) == (tasks.digest(data), locked)
        assert memoryview(back.get(DEADLINE)) == data
        assert memoryview(back.get()).readonly == locked


def test_an_exporter_can_be_changed_after_the_call(pool):
    """apply_async holds no export of what it was given."""
    p = pool(8, processes=1)
    data = bytearray(tasks.pattern(2 * MIB))
    r = p.apply_async(tasks.digest, (data,))
    s = p.apply_async(tasks.digest, (pickle.PickleBuffer(data),))
    expected = tasks.digest(data)
    data.clear()
    assert r.get(DEADLINE) == expected
    assert s.get(DEADLINE) == expected


def test_a_thousand_arrays_in_containers(pool):
    p = pool(4, processes=2)
    value = {i: [buffer_tasks.array(20 * KIB + i, i), (i, {"in": i})] for i in range(500)}
    value["rest"] = tuple(buffer_tasks.array(64, i) for i in range(500))
    shared = buffer_tasks.array(50 * KIB)
    value["twice"] = [shared, shared]
    found = p.apply_async(tasks.same, (value,)).get(DEADLINE)
    assert found.keys() == value.keys()
    for i in range(500):
        same(found[i][0], value[i][0])
        same(found["rest"][i], value["rest"][i])
    assert found["twice"][0] is found["twice"][1]


def test_kwargs_state_and_errors(pool, start_method):
    p = pool(4, processes=1)
    data = buffer_tasks.array(2 * MIB)
    keyed = p.apply_async(buffer_tasks.keyed, (), {"data": data, "factor": 3})
    stateful = p.apply_async(buffer_tasks.Adder(data), (data,))
    failing = p.apply_async(buffer_tasks.raise_with, (2 * MIB,))
    same(keyed.get(DEADLINE), data * 3)
    same(stateful.get(DEADLINE), data + data)
    with pytest.raises(buffer_tasks.BadData) as caught:
        failing.get(DEADLINE)
    same(caught.value.args[1], data)


@pytest.mark.parametrize("threshold", [1, 1000, 10 * MIB])
def test_other_thresholds(pool, threshold):
    p = pool(4, processes=1, segment_threshold=threshold)
    for size in (0, 1, 999, 1000, 70_000, 2 * MIB):
        value = [buffer_tasks.array(size), np.asfortranarray(np.ones((3, 5))), bytearray(size)]
        found = p.apply_async(tasks.same, (value,)).get(DEADLINE)
        same(found[0], value[0])
        same(found[1], value[1])
        assert found[2] == value[2]


def test_in_callbacks(pool):
    p = pool(4, processes=2)
    calls = Calls()
    for seed in range(20):
        p.apply_async(buffer_tasks.array, (MIB + seed, seed), callbacks=calls, meta=seed)
    for found, seed in calls.wait(20):
        same(found, buffer_tasks.array(MIB + seed, seed))


def test_no_contiguous_memory(pool):
    """As pickle says it, at the call; nothing is queued."""
    p = pool(4, processes=1)
    strided = pickle.PickleBuffer(buffer_tasks.array(MIB)[::2])
    with pytest.raises((BufferError, pickle.PicklingError)):
        p.apply_async(tasks.same, (strided,))
    assert p.statistics().submitted == 0


def test_pandas(pool):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "n": np.arange(300_000),
            "x": np.linspace(0, 1, 300_000),
            "text": ["a", "b", "c"] * 100_000,
            "when": pd.date_range("2020", periods=300_000, freq="s"),
        }
    )
    p = pool(4, processes=1)
    pd.testing.assert_frame_equal(p.apply_async(tasks.same, (frame,)).get(DEADLINE), frame)


def test_pyarrow(pool):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"n": range(300_000), "text": ["some", None, "text"] * 100_000})
    p = pool(4, processes=1)
    found = p.apply_async(tasks.same, (table,)).get(DEADLINE)
    assert found.equals(table)
    found.validate(full=True)


def test_max_bytes_counts_buffers(pool, tmp_path):
    p = pool(None, processes=1, max_bytes=10 * MIB)
    data = buffer_tasks.array(4 * MIB)
    gate = str(tmp_path / "gate")
    first = p.apply_async(buffer_tasks.compute_at_gate, (gate, data))
    second = p.apply_async(tasks.nothing, (data,), block=False)
    waiting = Background(p.apply_async, tasks.nothing, (data,))
    with pytest.raises(PoolFull):
        p.apply_async(tasks.nothing, (data,), block=False)
    assert not waiting.done
    (tmp_path / "gate").touch()
    waiting.result().get(DEADLINE)
    second.get(DEADLINE)
    assert first.get(DEADLINE) == buffer_tasks.checksum(data)
    assert p._core.bytes_in_flight == 0


def test_too_large_takes_no_memory(pool):
    p = pool(None, processes=1, max_bytes=MIB)
    p.apply_async(tasks.nothing).get(DEADLINE)  # its name is there from now on
    before = payload_bytes(p)
    for value in (buffer_tasks.array(8 * MIB), bytes(8 * MIB), [bytearray(8 * MIB)]):
        with pytest.raises(PayloadTooLarge):
            p.apply_async(tasks.nothing, (value,))
    assert payload_bytes(p) == before
    assert p._core.bytes_in_flight == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["bytes", "array"])
def test_more_than_four_gibibytes(pool, kind):
    if memory_available() < 16 << 30:
        pytest.skip("needs 16 GiB of memory")
    size = (4 << 30) + 12_345
    p = pool(1, processes=1)
    if kind == "bytes":  # one way at a time: five of them at once are 20 GiB
        assert p.apply_async(len, (bytes(size),)).get(200) == size
        assert len(p.apply_async(tasks.zeros, (size,)).get(200)) == size
        return
    data = np.zeros(size, np.uint8)
    data[-3:] = 1, 2, 3
    data[1 << 32] = 9
    found = p.apply_async(tasks.same, (data,)).get(200)
    assert len(found) == size
    assert found[-3:].tolist() == [1, 2, 3] and found[1 << 32] == 9 and int(found.sum()) == 15


def test_a_pickler_that_keeps_what_it_reads(pool):
    """Its views stay valid, whatever becomes of worker and pool."""
    p = pool(4, processes=1, pickler=Keeper())
    found = [p.apply_async(tasks.pattern, (n,)).get(DEADLINE) for n in (20_000, MIB, 3 * MIB)]
    echoed = p.apply_async(tasks.digest, (tasks.pattern(50_000),)).get(DEADLINE)
    for _ in range(20):
        p.apply_async(tasks.pattern, (3 * MIB,)).get(DEADLINE)
    p.terminate()
    del p
    for view, n in zip(found, (20_000, MIB, 3 * MIB), strict=True):
        assert pickle.loads(view) == tasks.pattern(n)
    assert pickle.loads(echoed) == tasks.digest(tasks.pattern(50_000))


class Keeper:
    """In the parent, `loads` returns the view that it was given."""

    def __init__(self):
        self.origin = os.getpid()

    def dumps(self, value, protocol=None, buffer_callback=None):
        return pickle.dumps(value, protocol)

    def loads(self, data, buffers=()):
        return memoryview(data) if os.getpid() == self.origin else pickle.loads(data)


def test_without_numpy(pool):
    """The package itself needs none."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import celery_pool, sys; print('numpy' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "False\n"
