"""The fault table: what happens to a worker, where, under which start method.

A fault costs exactly the task that it hits. `LETHAL` says how the worker ends:
(exit code, the key under which statistics() counts it); what is not in there the
worker survives: signals of others it is shielded from. Templates are hit as well.
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
#: The parent's side of a rolling restart has two templates.
NEW_TEMPLATE = "SIGKILL of the new template"
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
    "running, having called retire()": BY_THE_WORKER + FROM_OUTSIDE,
    "running, while the pool is renewed": (*BY_THE_WORKER, *FROM_OUTSIDE, NEW_TEMPLATE),
}
#: A worker is there without a task: nothing fails.
OUTSIDE_OF_TASKS = {
    "idle": FROM_OUTSIDE,
    "parked": FROM_OUTSIDE,
    "starting, before the initializer": FROM_OUTSIDE,
    "in the initializer": BY_THE_WORKER + FROM_OUTSIDE,
    "in the finalizer": BY_THE_WORKER + FROM_OUTSIDE,
    "in the finalizer, having called retire()": BY_THE_WORKER + FROM_OUTSIDE,
    "standing by": BY_THE_WORKER + FROM_OUTSIDE,
}
#: The template is in its initializer: workers go on; the start of a pool fails if the fault is
#: lethal, everything else is tried again.
IN_THE_TEMPLATES_INITIALIZER = (
    "exception",
    "sys.exit",
    "exit 0",
    "exit 3",
    "SIGKILL",
    "SIGSEGV",
    "SIGSTOP, SIGKILL",
    "SIGSTOP, SIGCONT",
    "SIGTERM by somebody else",
    "hang until start_timeout",
)
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
    for place in (
        "parked",
        "unpickling the arguments",
        "running Python",
        "in the initializer",
        "running, having called retire()",
        "running, while the pool is renewed",
        "standing by",
    )
] + [Case("running Python", "SIGKILL of the template", m) for m in ("forkserver", "spawn")]

IN_A_CALLBACK = [
    Case(place, fault)
    for place in (*IN_A_TASK, *OUTSIDE_OF_TASKS)
    for fault in ("SIGKILL", "SIGSTOP, SIGCONT")
]

TEMPLATES = {
    "the first template's initializer": IN_THE_TEMPLATES_INITIALIZER,
    "the initializer of one in the place of another": IN_THE_TEMPLATES_INITIALIZER,
    "the initializer of one that renews": IN_THE_TEMPLATES_INITIALIZER,
}
TEMPLATE_CASES = rows(TEMPLATES) + [
    Case(place, "SIGKILL", method) for place in TEMPLATES for method in ("forkserver", "spawn")
]

CASES = rows(IN_A_TASK) + rows(OUTSIDE_OF_TASKS) + OTHER_METHODS
