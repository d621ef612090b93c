"""What the soak goes by: a Redis' own journal of Celery's messages."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

pytest.importorskip("celery.app")  # `celery` alone would be this folder

import brokers
from redis_journal import MARK, Journal


class Kombu:
    """What a client and a consumer of kombu's do in Redis."""

    def __init__(self, server: brokers.Server) -> None:
        from redis import Redis

        self.redis = Redis("127.0.0.1", server.port)
        self.folder = server.folder
        self.texts: dict[str, str] = {}

    def send(self, tid: str, tag: str) -> None:
        message = {"body": "", "headers": {"id": tid}, "properties": {"delivery_tag": tag}}
        self.texts[tag] = json.dumps(message)
        self.redis.lpush("celery", self.texts[tag])

    def take(self) -> str:
        """The delivery tag."""
        _, text = self.redis.brpop("celery")
        return json.loads(text)["properties"]["delivery_tag"]

    def note(self, tag: str) -> None:
        with self.redis.pipeline() as pipe:
            pipe.zadd("unacked_index", {tag: 1.0})
            pipe.hset("unacked", tag, json.dumps([self.texts[tag], "", "celery"])).execute()

    def acknowledge(self, tag: str, *, back: bool = False) -> None:
        with self.redis.pipeline() as pipe:
            pipe.zrem("unacked_index", tag).hdel("unacked", tag)
            if back:
                pipe.rpush("celery", self.texts[tag])
            pipe.execute()


@pytest.fixture
def kombu(redis) -> Iterator[Kombu]:
    if isinstance(redis, brokers.Missing):
        pytest.skip(str(redis))
    with brokers.redis_server(journal=True) as server:
        one = Kombu(server)
        with one.redis:
            yield one


def test_what_has_become_of_a_message(kombu) -> None:
    for tid in ("done", "back", "gone", "waits"):
        kombu.send(tid, f"tag of {tid}")
    kombu.note(kombu.take())
    kombu.redis.set("celery-task-meta-done", json.dumps({"status": "SUCCESS"}))
    kombu.acknowledge("tag of done")
    kombu.note(kombu.take())
    kombu.acknowledge("tag of back", back=True)
    kombu.note(kombu.take())
    kombu.redis.set(MARK, "cut begins")
    kombu.take()
    journal = Journal(kombu.folder)
    stories = {
        tid: [one.what for one in journal.changes() if one.tid == tid]
        for tid in ("done", "back", "gone", "waits")
    }
    taken = ["sent", "handed over", "noted"]
    assert stories == {
        "done": [*taken, "SUCCESS", "acknowledged"],
        "back": [*taken, "put back", "handed over", "noted"],
        "gone": ["sent", "handed over"],
        "waits": ["sent"],
    }
    assert [one.tid for one in journal.gone()] == ["gone"]
    assert [one.what for one in journal.marks()] == ["cut begins"]
    assert str(journal.stories(["gone"])["gone"][-1]).endswith("handed over after 'cut begins'")


def test_until_when_a_message_may_have_been_on_its_way(kombu) -> None:
    """Kombu asks for one only when it has noted the one before."""
    for number in range(3):
        kombu.send(f"task {number}", f"tag {number}")
    kombu.note(kombu.take())
    kombu.take()
    kombu.redis.set(MARK, "between")
    kombu.note(kombu.take())
    journal = Journal(kombu.folder)
    (gone,) = journal.gone()
    (mark,) = journal.marks()
    assert gone.tid == "task 1"
    assert gone.position < mark.position < gone.until
    kombu.send("task 3", "tag 3")
    kombu.take()
    assert [one.tid for one in Journal(kombu.folder).gone()] == ["task 1", "task 3"]


def test_a_message_of_the_same_task(kombu) -> None:
    """A retry's is another one."""
    kombu.send("task", "first")
    kombu.note(kombu.take())
    kombu.send("task", "second")
    kombu.take()
    kombu.acknowledge("first")
    (gone,) = Journal(kombu.folder).gone()
    assert gone.tid == "task"
