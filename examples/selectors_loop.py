"""One loop, no threads: a socket server whose work is done by a process pool.

    python examples/selectors_loop.py      # serves itself three clients, then ends

Each line that a client sends is a task; its answer goes back when the task has ended. The loop
watches the pool's descriptor as it watches its sockets.
"""

from __future__ import annotations

import selectors
import socket

from celery_pool import TaskPool


def count_words(line: str) -> int:  # the work, done in another process
    return len(line.split())


class Client:
    """A connection; closed when it has been sent all its answers."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = b""
        self.unanswered = 0
        self.at_end = False

    def answer(self, text: str) -> None:
        self.connection.sendall(text.encode() + b"\n")
        self.unanswered -= 1
        self.close_if_done()

    def close_if_done(self) -> None:
        if self.at_end and not self.unanswered:
            self.connection.close()


def answer(count: int, client: Client) -> None:
    client.answer(str(count))


def refuse(error: Exception, client: Client) -> None:
    client.answer(f"error: {error}")


def serve(listener: socket.socket, clients: int) -> None:
    """Until so many clients have been served."""
    with (
        TaskPool(limit=64, processes=2, callbacks_in="caller") as pool,
        selectors.DefaultSelector() as selector,
    ):
        selector.register(listener, selectors.EVENT_READ)
        selector.register(pool.fileno(), selectors.EVENT_READ)
        while clients:
            for key, _ in selector.select():
                if key.fd == pool.fileno():
                    pool.reap(timeout=0)  # runs answer() and refuse(), here
                elif key.fileobj is listener:
                    connection, _ = listener.accept()
                    selector.register(connection, selectors.EVENT_READ, Client(connection))
                elif not read(key.data, pool):
                    selector.unregister(key.fileobj)
                    clients -= 1


def read(client: Client, pool: TaskPool) -> bool:
    """Submits the lines that have come; False when no more will."""
    data = client.connection.recv(4096)
    *lines, client.received = (client.received + data).split(b"\n")
    for line in lines:
        client.unanswered += 1
        pool.apply_async(count_words, (line.decode(),), None, answer, refuse, meta=client)
    client.at_end = not data
    client.close_if_done()
    return bool(data)


# ---- Clients, so that the example runs by itself


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        for number, client in enumerate(clients):
            client.sendall("".join("word " * i + "\n" for i in range(number + 2)).encode())
            client.shutdown(socket.SHUT_WR)
        serve(listener, len(clients))
        for client in clients:
            with client, client.makefile() as answers:
                print("answers:", *sorted(int(line) for line in answers))


if __name__ == "__main__":
    main()
