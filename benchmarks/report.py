"""Tables and plots from a run's figures.

    python benchmarks/report.py RESULTS.json                 a Markdown report to standard output
    python benchmarks/report.py RESULTS.json --plots FOLDER  plots as well (needs matplotlib)
    python benchmarks/report.py RESULTS.json --into FILE     tables into a document (repeatable)

A document says where its tables belong, by a pair of comments:

    <!-- figures: NAME -->
    <!-- end of figures -->

NAME is `machine` (one sentence), `targets`, `headline` (ours beside multiprocessing's), or a
workload's name. What stands between the two is replaced.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import contenders
import workloads
from results import Key, Results, Spread
from targets import OURS, PEERS, Bound, targets

REFERENCE = "multiprocessing"  # the peer that ratios are given against, where it has a part


def number(value: float) -> str:
    """Three significant digits, without exponent, thousands separated."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.5f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def targets_table(results: Results) -> str:
    """Target, what was measured, met or not."""
    summary = results.summary()
    rows = []
    unmeasured = 0
    for target in targets(results.python):
        value = target.bound.figure.of(summary)
        if value is None:
            unmeasured += 1
            continue
        bounds = (target.bound, *target.aims)
        shown = dict.fromkeys(quantity(bound.figure.of(summary), bound) for bound in bounds)
        verdict = "met" if target.bound.met(value) else "**missed**"
        aims = ", ".join(limit(aim) for aim in target.aims)
        rows.append([target.text, limit(target.bound), aims, " or ".join(shown), verdict])
    text = table(["target", "bound", "aim", "measured", ""], rows) if rows else ""
    if unmeasured:
        text += f"\n\nTargets whose figures are not in this run: {unmeasured} (`--full` has all)."
    return text.strip()


def quantity(value: float | None, bound: Bound) -> str:
    """A measured value in the bound's terms: as a fraction where the bound is one."""
    if value is None:
        return "n/a"
    unit = bound.figure.unit
    if unit == "x" and 0 < value < 1 and bound.at_most is not None and bound.at_most < 1:
        return f"1/{number(1 / value)}"
    return f"{number(value)} {unit}"


def limit(bound: Bound) -> str:
    """The bound in words."""
    if bound.at_least is not None:
        return f"at least {quantity(bound.at_least, bound)}"
    assert bound.at_most is not None
    return f"at most {quantity(bound.at_most, bound)}"


HEADLINE = (
    ("limit 100,000", "saturated", "unbounded", "rate"),
    ("two in flight", "limited", "in flight = processes", "rate"),
    ("64 in flight", "limited", "in flight 64", "rate"),
    ("four submitting threads, 64 in flight", "many_submitters", "4 threads", "rate"),
    ("round trip, median", "round_trip", "one at a time", "p50"),
    ("round trip, 99 %", "round_trip", "one at a time", "p99"),
    ("1,000 arrivals a second: submit to callback, median", "paced", "1,000/s", "p50"),
    ("the same: CPU time of all processes", "paced", "1,000/s", "cpu_total"),
    ("10,000 arrivals a second: submit to callback, median", "paced", "10,000/s", "p50"),
    ("the same: CPU time of all processes", "paced", "10,000/s", "cpu_total"),
    ("100 MiB array there and back", "payload", "100 MiB ndarray both", "p50"),
    ("idle for 10 s: CPU time of all processes", "idle", "10 s", "total"),
)


def headline_table(summary: Mapping[Key, Spread]) -> str:
    """Ours beside the reference, for those who read one table only."""
    rows = []
    for text, workload, case, measure in HEADLINE:
        keys = [Key(workload, case, measure, name) for name in (OURS, REFERENCE)]
        if any(key not in summary for key in keys):
            continue
        ours, theirs = (summary[key].median for key in keys)
        unit = workloads.load(workload).measures[measure].unit
        factor = ""
        if ours and theirs:
            times = ours / theirs
            factor = f"{number(times)} x" if times >= 1 else f"1/{number(1 / times)}"
        rows.append([text, readable(ours, unit), readable(theirs, unit), factor])
    return table(["2 workers", OURS, REFERENCE, ""], rows)


def readable(value: float, unit: str) -> str:
    """A figure with its unit, as one writes it in a sentence."""
    if unit == "tasks/s":
        return f"{number(value)}/s"
    if unit == "µs" and value >= 10_000:
        return f"{number(value / 1_000)} ms"
    return f"{number(value)} {unit}"


def figures_table(workload: str, summary: Mapping[Key, Spread]) -> str:
    """All cases and measures of a workload, a column for each contender."""
    keys = [key for key in summary if key.workload == workload]
    columns = [name for name in contenders.MODULES if any(key.contender == name for key in keys)]
    measures = workloads.load(workload).measures
    rows = []
    for case, measure in dict.fromkeys((key.case, key.measure) for key in keys):
        cells = [_cell(summary, Key(workload, case, measure, name)) for name in columns]
        rows.append([case, f"{measure} ({measures[measure].unit})", *cells])
    return table(["case", "measure", *columns], rows)


def _cell(summary: Mapping[Key, Spread], key: Key) -> str:
    if key not in summary:
        return "n/a"
    spread, reference = summary[key], _reference(summary, key)
    text = number(spread.median)
    if spread.rounds > 1:
        text += f" ({number(spread.min)} to {number(spread.max)})"
    if reference and reference.median and spread is not reference:
        text += f", {number(spread.median / reference.median)} x"
    return text


def _reference(summary: Mapping[Key, Spread], key: Key) -> Spread | None:
    peers = (key._replace(contender=name) for name in (REFERENCE, *contenders.MODULES))
    return next(
        (summary[peer] for peer in peers if peer in summary and peer.contender != OURS), None
    )


def machine_line(results: Results) -> str:
    """Where, with what and when it was measured."""
    machine = results.machine
    facts = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['python']}",
        ", ".join(f"{name} {version}" for name, version in results.versions.items()),
        f"commit {results.commit or 'unknown'}",
        f"load before the run {machine['load']}",
        results.started,
    ]
    return "; ".join(fact for fact in facts if fact) + "."


def markdown(results: Results) -> Iterator[str]:
    """The whole report, paragraph by paragraph."""
    yield machine_line(results)
    summary = results.summary()
    yield targets_table(results)
    yield (
        "Medians (minimum to maximum) over the rounds, and the ratio to the median of "
        f"{REFERENCE}, or of the first other contender where that has no part."
    )
    for name in dict.fromkeys(key.workload for key in summary):
        yield f"### {name}: {workloads.load(name).title}"
        yield figures_table(name, summary)
    notes = [f"- {name}: skipped, {reason}" for name, reason in results.skipped.items()]
    notes += [f"- {' / '.join(cell)}: n/a, {reason}" for cell, reason in results.failures().items()]
    if notes:
        yield "Not measured:"
        yield "\n".join(notes)


OTHERS = ("nanoseconds", "functions")  # filled by where_it_goes.py and instructions.py
PLACE = re.compile(
    r"(?P<begin><!-- figures: (?P<name>\w+) -->\n).*?(?P<end><!-- end of figures -->)", re.DOTALL
)


def fill(document: str, results: Results) -> str:
    """The document with this run's tables in their places; ValueError for a name without any."""

    for place in PLACE.finditer(document):
        if place["name"] not in OTHERS:
            document = put(document, place["name"], figures(place["name"], results))
    return document


def put(document: str, name: str, text: str) -> str:
    """The document with that text in the place of that name."""

    def block(place: re.Match[str]) -> str:
        if place["name"] != name:
            return place[0]
        return f"{place['begin']}\n{text}\n\n{place['end']}"

    return PLACE.sub(block, document)


def figures(name: str, results: Results) -> str:
    """What a document calls by that name."""
    summary = results.summary()
    if name == "machine":
        return machine_line(results)
    if name == "targets":
        return targets_table(results)
    if name == "headline":
        return headline_table(summary)
    if name not in workloads.NAMES:
        raise ValueError(f"no figures are called {name!r}")
    if not any(key.workload == name for key in summary):
        return "Not measured in this run."
    return figures_table(name, summary)


def plot_all(results: Results, folder: Path, suffix: str) -> list[Path]:
    """Rate over tasks in flight, latencies, bandwidth over payload: those that were measured."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "celery-pool", "svg.fonttype": "none"})
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, draw in (
        ("in_flight", _plot_in_flight),
        ("latency", _plot_latency),
        ("bandwidth", _plot_bandwidth),
    ):
        figure = draw(results)
        if figure is not None:
            drawn.append(folder / f"{name}.{suffix}")
            undated = {"metadata": {"Date": None}} if suffix == "svg" else {}
            figure.savefig(drawn[-1], bbox_inches="tight", facecolor="white", **undated)
    return drawn


def _plot_in_flight(results: Results) -> Any:
    """Only contenders that were measured with several numbers in flight."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for key, spread in results.summary().items():
        if key.workload == "limited":
            depth = results.parameters[key.workload][key.case]["in_flight"]
            lines.setdefault(key.contender, []).append((depth, spread.median))
    lines = {label: points for label, points in lines.items() if len(points) > 1}
    return _line_plot(lines, "tasks in flight", "tasks a second")


def _plot_bandwidth(results: Results) -> Any:
    lines: dict[str, list[tuple[float, float]]] = {}
    for key, spread in results.summary().items():
        parameters = results.parameters[key.workload][key.case]
        if (
            key.workload == "payload"
            and key.measure == "bandwidth"
            and parameters["direction"] == "both"
        ):
            label = f"{key.contender}, {parameters['payload_kind']}"
            lines.setdefault(label, []).append((parameters["payload"], spread.median))
    return _line_plot(lines, "payload, bytes", "MB/s, there and back")


def _line_plot(lines: dict[str, list[tuple[float, float]]], across: str, up: str) -> Any:
    if not lines:
        return None
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for label, points in lines.items():
        name, _, kind = label.partition(", ")
        style = "--" if kind == "bytes" else "-"
        width = 2.5 if name == OURS else 1.2
        axes.plot(
            *zip(*sorted(points), strict=True),
            style,
            marker="o",
            markersize=4,
            label=label,
            color=_color(name),
            linewidth=width,
        )
    axes.set(xscale="log", yscale="log", xlabel=across, ylabel=up)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _color(contender: str) -> str:
    """The same one in all plots; those that are no products are gray."""
    products = (OURS, *PEERS, "joblib")
    if contender in products:
        return f"C{products.index(contender)}"
    others = [name for name in contenders.MODULES if name not in products]
    return str(0.8 * others.index(contender) / len(others))


def _plot_latency(results: Results) -> Any:
    quantiles = ("p50", "p99", "p99.9")
    summary = results.summary()
    groups = [
        (workload, case)
        for workload, case in dict.fromkeys((key.workload, key.case) for key in summary)
        if workload in {"round_trip", "paced"}
    ]
    if not groups:
        return None
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        1, len(groups), sharey=True, squeeze=False, figsize=(4 * len(groups), 4)
    )
    for axes, (workload, case) in zip(grid[0], groups, strict=True):
        for name in contenders.MODULES:
            spreads = [summary.get(Key(workload, case, quantile, name)) for quantile in quantiles]
            if all(spreads):
                axes.plot(
                    quantiles,
                    [spread.median for spread in spreads if spread],
                    marker="o",
                    markersize=4,
                    label=name,
                    color=_color(name),
                    linewidth=2.5 if name == OURS else 1.2,
                )
        axes.set(yscale="log", title=f"{workload}, {case}", ylabel="µs")
        axes.grid(visible=True, alpha=0.3)
    handles, labels = grid[0][-1].get_legend_handles_labels()
    for axes in grid[0][:-1]:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    grid[0][-1].legend(
        handles, labels, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5)
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Tables and plots from the figures of side_by_side.py."
    )
    parser.add_argument("results", type=Path, help="JSON file written by side_by_side.py")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw plots into this folder")
    parser.add_argument("--format", default="svg", choices=("svg", "png"), help="of the plots")
    parser.add_argument(
        "--into",
        type=Path,
        action="append",
        metavar="FILE",
        help="put the tables into this document instead of printing them (repeatable)",
    )
    options = parser.parse_args()
    if not options.results.exists():
        parser.error(f"no {options.results}: celery-pool bench --full --out {options.results}")
    results = Results.load(options.results)
    for path in options.into or ():
        before = path.read_text(encoding="utf-8")
        try:
            after = fill(before, results)
        except ValueError as error:
            parser.error(f"{path}: {error}")
        if after != before:
            path.write_text(after, encoding="utf-8")
        places = len(PLACE.findall(before))
        print(f"{path}: {places} tables, {'changed' if after != before else 'as they were'}")
    if not options.into:
        print("\n\n".join(markdown(results)))
    if options.plots:
        try:
            drawn = plot_all(results, options.plots, options.format)
        except ImportError as error:
            parser.error(f"plots need matplotlib: {error}")
        print(*drawn, sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
