"""What tests ask of other processes."""

import os
import pickle
import signal
import subprocess
import time
import traceback
import warnings
from pathlib import Path

from support import DEADLINE


def signalled_by_another(pid: int, signum: int) -> None:
    """By a process that is not ours, in a session of its own. `pid`: negative, a group's. By the
    shell, since not every system has the program."""
    subprocess.run(["sh", "-c", f"kill -{int(signum)} {pid}"], check=True, start_new_session=True)


def in_forked_child(function, deadline=DEADLINE):
    """What it returns or raises in a forked child; fails if it takes too long there."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads
        child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            try:
                outcome = ("returned", function())
            except BaseException as error:
                outcome = (type(error).__name__, traceback.format_exc())
            os.write(writer, pickle.dumps(outcome))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        data = stream.read()
    os.waitpid(child, 0)
    assert data, "the child was killed: it took too long"
    return pickle.loads(data)


def sleeps(pid, thread=None):
    """Whether the (main) thread of a process sleeps, and has done so for a moment."""
    path = Path(f"/proc/{pid}/task/{thread or pid}/stat")

    def state():
        return path.read_text(errors="replace").rpartition(")")[2].split()[0]

    if state() != "S":
        return False
    time.sleep(0.03)
    return state() == "S"
