"""What is measured, and what it should come to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cost
import failures
import lifecycle
from figures import Figures

PREFORK, OURS = "prefork", "ours"
#: Ratios of a run's two sides that mean "not worse": two runs of one side differ by that much.
NOISE = 1.05


@dataclass(frozen=True)
class Row:
    """One measurement.

    :param shown: a format string of the figures, for the table.
    :param target: in words.
    :param met: whether ours (second) meets it, prefork's figures (first) being what they are.
    """

    name: str
    text: str
    measure: Callable[[str], Figures]
    shown: str
    target: str
    met: Callable[[Figures, Figures], bool]


def at_most(name: str, bound: float) -> Callable[[Figures, Figures], bool]:
    return lambda prefork, ours: number(ours, name) <= bound


def ratio(name: str, least: float = 0.0, most: float = float("inf")) -> Callable[..., bool]:
    """Ours divided by prefork's."""
    return lambda prefork, ours: least <= number(ours, name) / number(prefork, name) <= most


def number(figures: Figures, name: str) -> float:
    value = figures[name]
    assert not isinstance(value, str), f"{name} is {value!r}"
    return value


def is_(name: str, value: object) -> Callable[[Figures, Figures], bool]:
    return lambda prefork, ours: ours[name] == value


ROWS = [
    Row(
        "killed",
        "a process gets SIGKILL: the client sees FAILURE after, median and longest",
        failures.killed,
        "{seconds:.3f} s, {longest:.3f} s",
        "50 ms",
        at_most("seconds", 0.05),
    ),
    Row(
        "killed_in_thread_mode",
        "the same over a broker without an event loop",
        failures.killed_in_thread_mode,
        "{seconds:.3f} s, {longest:.3f} s",
        "1 s",
        at_most("seconds", 1.0),
    ),
    Row(
        "slow_initializer",
        "`worker_process_init` takes 5 s, `max_tasks_per_child` 2, 8 tasks: done within 40 s",
        lifecycle.slow_initializer,
        "{done:.0f} of 8 in {seconds:.1f} s, {killed:.0f} processes killed",
        "8 of 8",
        is_("done", 8),
    ),
    Row(
        "lock_in_the_main_process",
        "a thread of the main process holds a lock half of the time, `worker_process_init` takes "
        "it, `max_tasks_per_child` 1, 30 tasks: done within 46 s",
        lifecycle.lock_in_the_main_process,
        "{done:.0f} of 30 in {seconds:.1f} s",
        "30 of 30",
        is_("done", 30),
    ),
    Row(
        "wrongly_revoked",
        "a task takes no notice of `revoke(terminate=True)`, the next task in that process is "
        "killed: what that one is reported as",
        failures.wrongly_revoked,
        "{the other task}; the revoked one {the revoked one}",
        "WorkerLostError",
        is_("the other task", "WorkerLostError"),
    ),
    Row(
        "late_under_kills",
        "1,200 `acks_late` tasks of 10 ms, 4 processes, one killed every 250 ms",
        failures.late_under_kills,
        "{done:.0f} in {seconds:.1f} s",
        "all, faster",
        lambda prefork, ours: (
            ours["done"] == 1200 and number(ours, "seconds") < number(prefork, "seconds")
        ),
    ),
    Row(
        "hard_limit_in_c",
        "a hard limit of 1 s in C code: reported after",
        failures.hard_limit_in_c,
        "{seconds:.2f} s",
        "1.2 s",
        at_most("seconds", 1.2),
    ),
    Row(
        "pool_restart",
        "`pool_restart` while a task of 5 s runs: longest answer to a ping; longest short task",
        lifecycle.pool_restart,
        "{seconds:.2f} s; {task seconds:.2f} s; the long task {the long task}",
        "0.6 s",
        at_most("seconds", 0.6),
    ),
    Row(
        "poison_pills",
        "130 tasks that kill their process, then a good one, 4 processes: done after",
        failures.poison_pills,
        "{seconds:.1f} s",
        "5 s",
        at_most("seconds", 5.0),
    ),
    Row(
        "log_files",
        "log files of `%i`, 2 processes, `max_tasks_per_child` 2, 14 tasks",
        lifecycle.log_files,
        "{files:.0f}",
        "3",
        is_("files", 3),
    ),
    Row(
        "recycled_fork",
        "`max_tasks_per_child` 1, fork",
        lifecycle.recycled_fork,
        "{rate:.3g}/s",
        "5 x",
        ratio("rate", least=5),
    ),
    Row(
        "recycled_spawn",
        "`max_tasks_per_child` 1, spawn",
        lifecycle.recycled_spawn,
        "{rate:.3g}/s",
        "10 x",
        ratio("rate", least=10),
    ),
    Row(
        "memory_fork",
        "8 processes, fork: PSS of all, the main process included",
        cost.memory_fork,
        "{MiB:.0f} MiB",
        "0.65 x",
        ratio("MiB", most=0.65),
    ),
    Row(
        "memory_spawn",
        "8 processes, spawn: the same",
        cost.memory_spawn,
        "{MiB:.0f} MiB",
        "0.6 x",
        ratio("MiB", most=0.6),
    ),
    Row(
        "pool_alone",
        "the pool alone on kombu's event loop: the parent's CPU a task",
        cost.pool_alone,
        "{parent:.0f} µs",
        "30 µs, 0.35 x",
        lambda prefork, ours: (
            number(ours, "parent") <= 30
            and number(ours, "parent") <= 0.35 * number(prefork, "parent")
        ),
    ),
    Row(
        "over_redis",
        "no-op tasks over Redis, 2 processes: rate; the main process's CPU a task; latency",
        cost.over_redis,
        "{rate:.0f}/s; {parent:.0f} µs; {latency:.2f} ms",
        "not worse",
        lambda prefork, ours: (
            ratio("rate", least=1 / NOISE)(prefork, ours)
            and ratio("parent", most=NOISE)(prefork, ours)
            and ratio("latency", most=NOISE)(prefork, ours)
        ),
    ),
]
