"""What a Redis has done with Celery's messages, by its own journal, the append-only file: each
change, in the order in which they were made.

    sent          pushed to the queue, by a client or by a task's retry
    handed over   popped from it for a consumer, kombu's BRPOP
    noted         by kombu, among the unacknowledged: it comes back unless it is acknowledged
    put back      from there to the queue
    acknowledged

Kombu notes a message before the worker hears of it. One that has been handed over and not noted
is gone: Redis has forgotten it, and the connection was cut, or the process ended, before kombu
could note it. Nobody behind kombu has to do with that.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

#: A key whose values are notes of the test's own in the journal.
MARK = b"mark"
RESULT = b"celery-task-meta-"
#: Between a queue's name and the priority, in the keys of its further lists.
PRIORITY = b"\x06\x16"


class Change(NamedTuple):
    position: int  # in the journal: the number of the command
    what: str  # as above; or a result's status; or the text of a mark
    tid: str = ""  # the task's id; none: a mark
    tag: str = ""  # of the message; none: a result


class Event(NamedTuple):
    """Of a task's story."""

    position: int
    what: str
    mark: str  # the latest before it

    def __str__(self) -> str:
        return f"{self.position} {self.what}" + (f" after '{self.mark}'" if self.mark else "")


class Gone(NamedTuple):
    """A message that was handed over and not noted."""

    tid: str
    position: int  # of its handing over
    until: int  # when the next one was handed over: by then kombu had no part of this one


def commands(path: Path) -> Iterator[list[bytes]]:
    """Those of an append-only file."""
    with path.open("rb") as file:
        while line := file.readline():
            if line.startswith(b"#"):
                continue
            words = []
            for _ in range(int(line[1:])):
                size = int(file.readline()[1:])
                words.append(file.read(size + 2)[:size])
            yield words


class Journal:
    """:param folder: of a Redis that keeps one.
    :param queue: of Celery.
    """

    def __init__(self, folder: Path, queue: str = "celery") -> None:
        # since Redis 7 in a folder of its own, beside what it is based on: nothing
        found = [*folder.glob("appendonly.aof"), *folder.glob("appendonlydir/*.incr.aof")]
        (self.path,) = found
        self.queue = queue.encode()

    def changes(self) -> Iterator[Change]:
        """Of the queue's messages, and the tasks' results."""
        lists: defaultdict[bytes, deque[str]] = defaultdict(deque)  # delivery tags
        tids: dict[str, str] = {}  # by delivery tag
        away: dict[str, Change] = {}  # what this transaction took from the unacknowledged
        together = False
        for position, (command, key, *words) in enumerate(padded(commands(self.path))):
            name = command.upper()
            if name == b"MULTI":
                together = True
            elif name in (b"LPUSH", b"RPUSH") and key.partition(PRIORITY)[0] == self.queue:
                for word in words:
                    message = json.loads(word)
                    tag, tid = message["properties"]["delivery_tag"], message["headers"]["id"]
                    tids[tag] = tid
                    if name == b"LPUSH":
                        lists[key].appendleft(tag)
                    else:
                        lists[key].append(tag)
                    back = away.pop(tag, None)
                    yield Change(position, "put back" if back else "sent", tid, tag)
            elif name == b"RPOP" and key.partition(PRIORITY)[0] == self.queue:
                tag = lists[key].pop()
                yield Change(position, "handed over", tids[tag], tag)
            elif name == b"HSET" and key == b"unacked":
                tag = words[0].decode()
                yield Change(position, "noted", tids[tag], tag)
            elif name == b"HDEL" and key == b"unacked":
                # taken from there; in the same transaction it is put back, or it is not
                for tag in map(bytes.decode, words):
                    away[tag] = Change(position, "acknowledged", tids[tag], tag)
            elif name == b"EXEC":
                together = False
            elif name in (b"SET", b"SETEX", b"PSETEX") and key.startswith(RESULT):
                text = next(word for word in words if word.startswith(b"{"))
                yield Change(position, json.loads(text)["status"], key[len(RESULT) :].decode())
            elif key == MARK:
                yield Change(position, words[0].decode())
            if away and not together:
                yield from away.values()
                away.clear()

    def gone(self) -> list[Gone]:
        """The messages that were handed over and not noted."""
        on_their_way: dict[str, list[Gone]] = {}  # by delivery tag
        latest: list[Gone] | None = None
        for change in self.changes():
            if change.what == "handed over":
                if latest:
                    latest[-1] = latest[-1]._replace(until=change.position)
                latest = on_their_way.setdefault(change.tag, [])
                latest.append(Gone(change.tid, change.position, sys.maxsize))
            elif change.what == "noted" and on_their_way.get(change.tag):
                on_their_way[change.tag].pop()
                if not on_their_way[change.tag]:
                    del on_their_way[change.tag]
        return [one for found in on_their_way.values() for one in found]

    def marks(self) -> list[Change]:
        return [change for change in self.changes() if not change.tid]

    def stories(self, tids: Iterable[str]) -> dict[str, list[Event]]:
        """All changes of some tasks."""
        wanted = {*tids}
        told: defaultdict[str, list[Event]] = defaultdict(list)
        mark = ""
        for change in self.changes():
            if not change.tid:
                mark = change.what
            elif change.tid in wanted:
                told[change.tid].append(Event(change.position, change.what, mark))
        return {tid: told[tid] for tid in wanted}


def padded(found: Iterable[list[bytes]]) -> Iterator[list[bytes]]:
    """MULTI and EXEC have no key."""
    for words in found:
        yield words if len(words) > 1 else [*words, b""]
