"""A consumer of messages: acks in a callback, nacks in an errback, and drains on SIGTERM.

    python examples/consumer.py & sleep 2; kill -TERM %1; wait

The first part is all that a consumer needs. The second is a stand-in for the message broker, in
memory, so that the example runs by itself: replace it by your client library's connection.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue

from celery_pool import TaskPool


def word_count(text: str) -> int:  # the work, done in another process
    if not text:
        raise ValueError("an empty message")
    return len(text.split())


def ack(result: int, message: Message) -> None:
    message.ack()


def nack(error: BaseException, message: Message) -> None:
    message.nack(requeue=not message.redelivered)


def consume(broker: Broker) -> None:
    signal.signal(signal.SIGTERM, lambda signum, frame: broker.cancel())  # no new messages
    with TaskPool(limit=64, processes=2) as pool:  # leaving the block waits for those in flight
        for message in broker:  # when 64 are in flight, the next one waits
            pool.apply_async(word_count, (message.body,), {}, [ack], [nack], meta=message)


# ---- The stand-in for a broker


class Message:
    """One delivery; to be settled once, by ack or nack."""

    def __init__(self, broker: Broker, body: str, redelivered: bool) -> None:
        self.body = body
        self.redelivered = redelivered
        self._broker = broker
        self._settled = False

    def ack(self) -> None:
        self._settle()
        self._broker.acked += 1

    def nack(self, *, requeue: bool) -> None:
        self._settle()
        if requeue:
            self._broker.requeued += 1
            self._broker.publish(self.body, redelivered=True)
        else:
            self._broker.dead_letters.append(self.body)

    def _settle(self) -> None:
        if self._settled:
            raise RuntimeError("a message was settled twice")
        self._settled = True


class Broker:
    """A queue of messages that a thread fills without end; every hundredth is a bad one."""

    def __init__(self) -> None:
        self.delivered = 0
        self.acked = 0
        self.requeued = 0
        self.dead_letters: list[str] = []
        self._queue: SimpleQueue[tuple[str, bool]] = SimpleQueue()
        self._cancelled = False
        threading.Thread(target=self._fill, daemon=True).start()

    def publish(self, body: str, *, redelivered: bool = False) -> None:
        self._queue.put((body, redelivered))

    def cancel(self) -> None:
        """Ends the iteration, from a signal handler, too. What is not delivered yet stays here."""
        self._cancelled = True
        self._queue.put(("", True))  # wakes the one who waits

    def __iter__(self) -> Iterator[Message]:
        while True:
            body, redelivered = self._queue.get()
            if self._cancelled:
                return
            self.delivered += 1
            yield Message(self, body, redelivered)

    @property
    def unsettled(self) -> int:
        return self.delivered - self.acked - self.requeued - len(self.dead_letters)

    def _fill(self) -> None:
        number = 0
        while not self._cancelled:
            number += 1
            self.publish("" if number % 100 == 0 else f"message {number} of the day")
            time.sleep(0.001)


def main() -> int:
    broker = Broker()
    print(f"consuming; kill -TERM {os.getpid()} ends it", flush=True)
    consume(broker)
    print(
        f"{broker.delivered} delivered: {broker.acked} acked, {broker.requeued} requeued, "
        f"{len(broker.dead_letters)} dead letters, {broker.unsettled} unsettled"
    )
    return 1 if broker.unsettled else 0


if __name__ == "__main__":
    raise SystemExit(main())
