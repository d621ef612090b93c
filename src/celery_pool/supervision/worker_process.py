"""One worker process as its parent sees it."""

from __future__ import annotations

import contextlib
import enum
import os
import select
import signal

from .._poolcore import Channel
from ..child import stacks
from ..child.plan import stack_signal
from ..host.files import close_fds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .template_process import TemplateProcess

#: How long the text of a stack may take to arrive, and to be complete, in seconds.
STACK_ARRIVES, STACK_COMPLETE = 0.1, 0.02

#: How long a worker that is told to end keeps its task from being reported, in seconds.
LONGEST_REPORT = 0.08
REPORT = 0  # a step that is no signal

NEVER = float("inf")
#: How long SIGKILL may take to take effect, in milliseconds.
LONGEST_DEATH = 5000


class Stage(enum.IntEnum):
    """Of a worker's life; it never goes back."""

    ASKED = enum.auto()  # the template has been
    STARTED = enum.auto()  # its pid is known
    READY = enum.auto()  # its initializer has returned, and the core knows it
    LEAVING = enum.auto()  # it has been told to, and has done what it was given
    DEAD = enum.auto()  # for certain; its tasks wait to be recovered


class WorkerProcess:
    """From the request to the template until it is buried.

    Signals go through the pidfd, so that they never hit a process that got the
    same pid.
    """

    def __init__(
        self,
        serial: int,
        channel: Channel,
        lifeline: int,
        stack_pipe: int,
        asked: float,
        start_by: float,
        *,
        template: TemplateProcess | None,
        group: bool = False,
    ) -> None:
        self.serial = serial
        self.channel = channel
        self.lifeline = lifeline  # write end; closing it kills the worker
        self.stack_pipe = stack_pipe  # read end; the worker's faulthandler writes to the other
        self.asked = asked  # when the template was, monotonic seconds
        self.start_by = start_by  # when it has to be ready
        self.template = template  # which has been asked for it
        self.outdated = False  # a later one shall take its place
        self.pid = 0
        self.pidfd = -1
        self.watched = False  # the selector knows the pidfd
        self.stage = Stage.ASKED
        self.ready = False  # has reached that stage
        self.orphan = False  # its template is gone, and with it the exit code
        self.leave_by = NEVER  # when it is killed that does not leave, monotonic seconds
        self.exitcode: int | None = None
        self.bury_at = 0.0  # when to give up waiting for the exit code, monotonic seconds
        self.why: str | None = None  # it is to end: the key under which its exit is counted
        self.condemned = False  # to be killed, with what it runs
        self.start_error: BaseException | None = None  # why it never came to be ready, if we know
        self.steps: list[tuple[float, int]] = []  # (when, signal), sorted
        self.group = group  # leads a process group, which is killed with it

    def enter(self, stage: Stage) -> None:
        self.stage = stage
        if stage is Stage.READY:
            self.ready = True

    @property
    def dead(self) -> bool:
        return self.stage is Stage.DEAD

    def stays(self) -> bool:
        """Whether nobody has told it to leave. A dead one that had done nothing counts
        as well until it is buried: its successor may have to wait."""
        return (
            self.why is None
            and not self.channel.leaving
            and (not self.dead or self.channel.done == 0)
        )

    def due(self) -> float:
        """When somebody has to look at it, monotonic seconds."""
        if self.dead:
            return self.bury_at
        if self.steps:
            return self.steps[0][0]
        if self.lifeline < 0:
            return NEVER
        return self.leave_by if self.ready else self.start_by

    def send(self, signum: int) -> None:
        if self.dead or not self.pid:
            return
        if self.group and signum in (signal.SIGTERM, signal.SIGKILL):
            self.kill_group(signum)
        pidfd = self.pidfd
        with contextlib.suppress(OSError):  # it is dead, or being buried
            if pidfd >= 0:
                signal.pidfd_send_signal(pidfd, signum)
            else:  # this platform has none; the template has not reaped it yet
                os.kill(self.pid, signum)

    def kill_group(self, signum: int = signal.SIGKILL) -> None:
        """What its tasks have left in its group, too."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signum)

    def kill(self) -> None:
        """SIGKILL now, also if its pid is not known yet."""
        self.steps.clear()
        if not self.dead:
            self.send(signal.SIGKILL)
            fd, self.lifeline = self.lifeline, -1
            if fd >= 0:
                os.close(fd)

    def wait(self) -> None:
        """Until it is dead; after kill()."""
        if self.pidfd >= 0 and not self.dead:
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            poll.poll(LONGEST_DEATH)

    def end_with(self, why: str, signum: int, now: float, grace: float) -> None:
        """`signum` now, SIGKILL after `grace` seconds; its task is not kept by that."""
        self.why = why
        self.condemned = True
        self.steps = sorted(
            [(now, signum), (now + LONGEST_REPORT, REPORT), (now + grace, signal.SIGKILL)]
        )

    def end_with_stack(self, why: str, now: float, grace: float) -> None:
        """Its Python stack first, then SIGTERM, then SIGKILL."""
        self.end_with(why, signal.SIGTERM, now + STACK_ARRIVES, grace)
        self.channel.stack = ""
        self.send(stack_signal())

    def stack_arrives(self, now: float) -> None:
        """The first words of the stack are here."""
        if len(self.steps) == 3:
            self.steps[0] = (now + STACK_COMPLETE, self.steps[0][1])

    def take_steps(self, now: float) -> bool:
        """Whether its task is to be reported now."""
        report = False
        while self.steps and self.steps[0][0] <= now:
            _, signum = self.steps.pop(0)
            if signum == REPORT:
                report = True
            elif signum == signal.SIGKILL:
                self.kill()
            else:
                self.send(signum)
        return report

    def read_stack(self) -> None:
        """What the dead worker has left in the pipe."""
        if self.channel.stack is not None:
            text = b""
            with contextlib.suppress(BlockingIOError):
                while more := os.read(self.stack_pipe, 1 << 16):
                    text += more
            self.channel.stack = stacks.of_the_task(text.decode(errors="replace"))

    def fds(self) -> set[int]:
        return {self.lifeline, self.stack_pipe, self.pidfd}

    def close(self) -> None:
        close_fds(self, "lifeline", "stack_pipe", "pidfd")
