"""`celery-pool map MODULE:FUNCTION [FILE ...]`: a function on each record of the input.

    FileRecords --record--> TaskPool --callbacks--> Lines --lines--> Writer
    (main thread)          (record_tasks.py)      (order)             (thread)

Everything is bounded, so that memory stays flat on endless input: the tasks in flight by the pool's
limit and, if their records are large, by MEMORY; the outcomes kept back for the sake of the order
by WINDOW and MEMORY; the lines not yet written by MEMORY.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from celery_pool.host.cpus import usable_cpus

from .. import PoolError, TaskPool
from ..options import WorkerOptions
from . import function, record_tasks, sources, switches
from .failures import Failure
from .lines import MEMORY, Lines
from .output import Sink, Writer, is_same_file, open_sink
from .progress import Progress
from .stopping import Reason, Stopped, Stopper
from .usage import (
    EXIT_FAILED,
    EXIT_SIGNAL,
    Parser,
    UsageError,
    positive,
    say,
)

COMMAND = "celery-pool map"
HELP = "apply a function to each line of files, in many processes"
LARGE = 1 << 16  # bytes above which records are counted by their size, too
DEPTH = 64  # tasks in flight for each worker, unless --limit says otherwise


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_intermixed_args(arguments)
    function.make_current_directory_importable()
    function.load(options.function)
    return Mapping(options).run()


def _parser() -> Parser:
    parser = Parser(
        prog=COMMAND,
        usage="%(prog)s [OPTION ...] MODULE:FUNCTION [FILE ...]",
        description="Applies FUNCTION to each line of the files, or of standard input, in many "
        "processes, and writes each result as a line of JSON, in the order of the input. "
        "The current directory is importable.",
        epilog="A failed task has no line in the output, unless --envelope is given, and the "
        "others go on. Exit status: 0; 1 if a task failed or the output could not be written; "
        "2 if the command cannot be carried out as given; 130 after Ctrl-C, 143 after SIGTERM.",
    )
    parser.add_argument(
        "function", metavar="MODULE:FUNCTION", help="what to call, with one argument"
    )
    parser.add_argument(
        "files", metavar="FILE", nargs="*", help="the input; '-' or none: standard input"
    )
    kind = parser.add_argument_group("input").add_mutually_exclusive_group()
    kind.add_argument(
        "--jsonl",
        action="store_true",
        help="each line is a JSON document; blank lines are left out",
    )
    kind.add_argument(
        "--paths",
        action="store_true",
        help="each FILE is passed as a path, not read; standard input lists paths",
    )
    parser.add_argument(
        "--null", "-0", action="store_true", help="input ends in NUL, not newline: find -print0"
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output", "-o", metavar="FILE", default="-", help="where the results go (standard output)"
    )
    group.add_argument(
        "--unordered", action="store_true", help="write each result as soon as it is there"
    )
    group.add_argument(
        "--envelope",
        action="store_true",
        help='a line for each task: {"index", "ok", "value"}, or with "error" instead of "value"',
    )
    group.add_argument(
        "--errors",
        metavar="FILE",
        help="where failures go, as JSON documents with traceback (else lines on stderr)",
    )
    group = parser.add_argument_group("work")
    group.add_argument(
        "--processes", "-p", metavar="N", type=positive, help="workers (the CPUs of this process)"
    )
    group.add_argument(
        "--limit",
        "-l",
        metavar="L",
        type=positive,
        help=f"most tasks in flight ({DEPTH} for each worker)",
    )
    group.add_argument(
        "--max-failures", metavar="N", type=positive, help="stop when N tasks have failed"
    )
    group.add_argument(
        "--statistics",
        action="store_true",
        help="tell at the end, as JSON on standard error, what became of tasks and workers",
    )
    switches.add(parser)
    return parser


class Mapping:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._processes, self._limit = _numbers(options.processes, options.limit)
        self._target, self._records = _input(options)
        self._output, self._errors = _sinks(options)
        self._stopper = Stopper()
        self._lines = Lines(
            *(self._output, self._errors, self._on_failure),
            envelope=options.envelope,
            ordered=not options.unordered,
        )
        self._progress = Progress(self._lines, self._records.total)
        self._writer = Writer([self._output, self._errors], self._progress, self._on_write_error)

    def run(self) -> int:
        lines, stopper = self._lines, self._stopper
        stopper.protect(lines.on_result, lines.on_error)
        options: WorkerOptions = {
            "initializer": record_tasks.start,
            "initargs": (self._options.function,),
            "kill_group": True,  # so that programs that a task has started end, too
            **switches.given(self._options),
        }
        pool = TaskPool(self._limit, processes=self._processes, **options)
        with stopper:
            try:
                self._start(pool)
                self._feed(pool)
                self._drain(pool)
                pool.close()
                pool.join()
                self._writer.finish()
            except Stopped:
                pass
            except PoolError as error:
                if stopper.reason is None:
                    say(COMMAND, f"error: {error}")
                    lines.failed += 1
            finally:
                stopper.over()
                lines.closed = True
                pool.terminate()
            self._write_the_rest()
        status = self._conclude()
        if self._options.statistics:
            say(COMMAND, json.dumps(dataclasses.asdict(pool.statistics())))
        return status

    def _start(self, pool: TaskPool) -> None:
        try:
            pool.run()
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"the workers cannot be started: {error}") from error
        self._progress.start()
        self._writer.start()  # after the workers, so that these are not forked beside a thread

    def _feed(self, pool: TaskPool) -> None:
        """Submits a task for each record. Kept short: what is here is paid for each task."""
        lines, stopper, target = self._lines, self._stopper, self._target
        submit, crowded = pool.apply_async, lines.crowded
        callbacks, errbacks = (lines.on_result,), (lines.on_error,)
        for record in self._records:
            if crowded():
                self._wait_for_room(pool)
            if stopper.reason is not None:
                raise Stopped
            function: Callable[[Any], Any] = target
            if type(record) is not bytes:
                function = record_tasks.on_unreadable
            elif len(record) > LARGE:
                self._wait_for_memory(pool, len(record))
            submit(function, (record,), None, callbacks, errbacks, None, lines.expect())

    def _wait_for_room(self, pool: TaskPool) -> None:
        while self._stopper.reason is None and self._lines.crowded():
            if not pool.wait_for_result():
                time.sleep(
                    0.01
                )  # nothing is in flight: it is the reader of the output who takes long

    def _wait_for_memory(self, pool: TaskPool, size: int) -> None:
        """Until records of this size take no more than MEMORY, or each worker has but one."""
        lines = self._lines
        while self._stopper.reason is None:
            in_flight = lines.submitted - lines.finished
            if in_flight < self._processes or in_flight * size <= MEMORY:
                break
            pool.wait_for_result()

    def _drain(self, pool: TaskPool) -> None:
        lines = self._lines
        while lines.finished < lines.submitted:
            if self._stopper.reason is not None:
                raise Stopped
            if not pool.wait_for_result():
                time.sleep(0.001)  # the last callbacks are running in another thread

    def _write_the_rest(self) -> None:
        if self._writer.is_alive():
            if self._stopper.reason in {None, Reason.TOO_MANY_FAILURES}:
                self._writer.finish()
            else:
                self._writer.abandon()
        if not self._writer.is_alive():
            self._progress.close()
            self._output.close()
            self._errors.close()

    # Called by callbacks and by the writer.

    def _on_failure(self, failure: Failure) -> None:
        source, number = self._records.locate(failure.index)
        if self._options.errors is None:
            line = f"{COMMAND}: {failure.as_line(source, number)}\n"
        else:
            line = failure.as_document(source, number) + "\n"
        self._errors.put(line.encode(errors="backslashreplace"))
        most = self._options.max_failures
        if most is not None and self._lines.failed >= most:
            self._stopper.request(Reason.TOO_MANY_FAILURES)

    def _on_write_error(self, sink: Sink) -> None:
        if sink is self._errors and self._options.errors is None:
            return
        broken = isinstance(sink.error, BrokenPipeError)
        self._stopper.request(Reason.PIPE_CLOSED if broken else Reason.OUTPUT_FAILED)

    def _conclude(self) -> int:
        """Says how it went, and returns the exit status."""
        lines, reason = self._lines, self._stopper.reason
        if reason is Reason.SIGNAL:
            return EXIT_SIGNAL + self._stopper.signum
        for sink in (self._output, self._errors):
            if sink.error is not None and not self._bearable(sink):
                say(COMMAND, f"error: cannot write {sink.name}: {sink.error.strerror}")
                return EXIT_FAILED
        if lines.failed and reason is not Reason.PIPE_CLOSED:
            stopped = "stopped: " if reason is Reason.TOO_MANY_FAILURES else ""
            where = f", see {self._errors.name}" if self._options.errors else ""
            say(COMMAND, f"{stopped}{lines.failed} of {lines.finished} tasks failed{where}")
        return EXIT_FAILED if lines.failed else 0

    def _bearable(self, sink: Sink) -> bool:
        """Whether this sink may fail quietly."""
        if sink is self._errors and self._options.errors is None:
            return True  # nobody listens; the exit status tells
        return isinstance(sink.error, BrokenPipeError)


def _numbers(processes: int | None, limit: int | None) -> tuple[int, int]:
    """How many workers, and how many tasks in flight."""
    if processes is None:
        processes = usable_cpus(limit)
    if limit is None:
        limit = processes * DEPTH
    if limit < processes:
        raise UsageError(f"--limit {limit} leaves some of the {processes} processes without a task")
    return processes, limit


def _input(options: argparse.Namespace) -> tuple[Callable[[bytes], bytes], sources.Records]:
    """What is called in the worker for each record, and the records."""
    separator = b"\0" if options.null else b"\n"
    files: list[str] = options.files or [sources.STANDARD]
    if options.paths and files != [sources.STANDARD]:
        return record_tasks.on_path, sources.GivenPaths(files)
    sources.check(files)
    target: Any
    if options.paths:
        target = record_tasks.on_path
    elif options.jsonl:
        target = record_tasks.on_document
    else:
        target = record_tasks.on_text if options.null else record_tasks.on_line
    text = not options.paths and not options.null
    return target, sources.FileRecords(files, separator, text=text)


def _sinks(options: argparse.Namespace) -> tuple[Sink, Sink]:
    """Where the results go, and where the failures go."""
    if options.output == sources.STANDARD and sys.stdout is None:
        raise UsageError("standard output is closed")
    inputs = [] if options.paths else options.files
    if (
        options.errors
        and options.output != sources.STANDARD
        and is_same_file(options.errors, options.output)
    ):
        raise UsageError("--output and --errors name the same file")
    output = open_sink(options.output, 1, "standard output", inputs)
    errors = open_sink(options.errors or sources.STANDARD, 2, "standard error", inputs)
    return output, errors
