"""The fault table: what happens to a worker, where, under which start method.

A fault costs exactly the task that it hits. `LETHAL` says how the worker ends:
(exit code, the key under which statistics() counts it); what is not in there the
worker survives: signals of others it is shielded from.
"""

from __future__ import annotations

import signal
from typing import NamedTuple

LETHAL = {
    "SIGKILL": (-signal.SIGKILL, "signal"),
    "SIGSEGV": (-signal.SIGSEGV, "signal"),
    "SIGABRT": (-signal.SIGABRT, "signal"),
    "SIGSTOP, SIGKILL": (-signal.SIGKILL, "signal"),
    "exit 0": (0, "exit_code"),
    "exit 3": (3, "exit_code"),
}
BY_THE_WORKER = ("exit 0", "exit 3", "sys.exit in a thread")
FROM_OUTSIDE = (
    "SIGKILL",
    "SIGSEGV",
    "SIGABRT",
    "SIGSTOP, SIGKILL",
    "SIGSTOP, SIGCONT",
    "SIGKILL of the template",
    "SIGTERM by somebody else",
)

#: A task is at the place: it fails with WorkerLostError if the fault is lethal.
IN_A_TASK = {
    "unpickling the arguments": BY_THE_WORKER + FROM_OUTSIDE,
    "importing the function": BY_THE_WORKER + FROM_OUTSIDE,
    "running Python": BY_THE_WORKER + FROM_OUTSIDE,
    "running C that holds the GIL": FROM_OUTSIDE,
    "pickling the result": BY_THE_WORKER + FROM_OUTSIDE,
    "running, with a child that outlives it": BY_THE_WORKER + FROM_OUTSIDE,
}
#: A worker is there without a task: nothing fails.
OUTSIDE_OF_TASKS = {
    "idle": FROM_OUTSIDE,
    "parked": FROM_OUTSIDE,
    "starting, before the initializer": FROM_OUTSIDE,
    "in the initializer": BY_THE_WORKER + FROM_OUTSIDE,
    "in the finalizer": BY_THE_WORKER + FROM_OUTSIDE,
}
#: Somewhere on the way: the task fails or succeeds, as the fault was early or late.
ON_THE_WAY = {
    "in the middle of a 50 MB argument": ("SIGKILL", "SIGSTOP, SIGKILL", "SIGSTOP, SIGCONT"),
    "in the middle of a 50 MB result": ("SIGKILL", "SIGSTOP, SIGKILL", "SIGSTOP, SIGCONT"),
    "waiting for completion room": FROM_OUTSIDE,
}


class Case(NamedTuple):
    place: str
    fault: str
    method: str = "fork"

    def __str__(self) -> str:
        return f"{self.fault} - {self.place} - {self.method}"


def rows(places: dict[str, tuple[str, ...]]) -> list[Case]:
    return [Case(place, fault) for place, faults in places.items() for fault in faults]


OTHER_METHODS = [
    Case(place, "SIGKILL", method)
    for method in ("forkserver", "spawn")
    for place in ("parked", "unpickling the arguments", "running Python", "in the initializer")
] + [Case("running Python", "SIGKILL of the template", m) for m in ("forkserver", "spawn")]

IN_A_CALLBACK = [
    Case(place, fault)
    for place in (*IN_A_TASK, *OUTSIDE_OF_TASKS)
    for fault in ("SIGKILL", "SIGSTOP, SIGCONT")
]

CASES = rows(IN_A_TASK) + rows(OUTSIDE_OF_TASKS) + OTHER_METHODS
