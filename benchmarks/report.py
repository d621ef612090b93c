"""Tables and plots from a run's figures.

python benchmarks/report.py RESULTS.json                 a Markdown report to standard output
python benchmarks/report.py RESULTS.json --plots FOLDER  plots as well (needs matplotlib)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import contenders
import workloads
from results import Key, Results, Spread
from targets import TARGETS, Target

REFERENCE = "multiprocessing"  # the peer that ratios are given against


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


def targets_table(summary: Mapping[Key, Spread]) -> str:
    """Target, what was measured, met or not."""
    rows = []
    for target in TARGETS:
        value = target.measured(summary)
        if value is None:
            shown, verdict = "not measured", ""
        else:
            shown, verdict = ratio(value, target), "met" if target.met(value) else "**missed**"
        rows.append([target.text, bound(target), shown, verdict])
    return table(["target", "bound", "measured", ""], rows)


def ratio(value: float, target: Target) -> str:
    """A measured value in the target's terms: ratios below one as fractions."""
    if target.against is not None and value and target.at_most is not None and target.at_most < 1:
        return f"1/{number(1 / value)}"
    return f"{number(value)} {target.unit}"


def bound(target: Target) -> str:
    """The bound, and the aim if there is one."""
    if target.at_least is not None:
        text = f"at least {ratio(target.at_least, target)}"
    else:
        assert target.at_most is not None
        text = f"at most {ratio(target.at_most, target)}"
    return text if target.aim is None else f"{text} (aim {ratio(target.aim, target)})"


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
        return ""
    spread, reference = summary[key], summary.get(key._replace(contender=REFERENCE))
    text = number(spread.median)
    if spread.rounds > 1:
        text += f" ({number(spread.min)} to {number(spread.max)})"
    if reference and reference.median and key.contender != REFERENCE:
        text += f", {number(spread.median / reference.median)} x"
    return text


def markdown(results: Results) -> Iterator[str]:
    """The whole report, paragraph by paragraph."""
    machine = results.machine
    facts = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, {machine['python']}",
        ", ".join(f"{name} {version}" for name, version in results.versions.items()),
        f"commit {results.commit or 'unknown'}",
        f"load before the run {machine['load']}",
        results.started,
    ]
    yield "; ".join(fact for fact in facts if fact) + "."
    summary = results.summary()
    yield targets_table(summary)
    yield f"Medians (minimum to maximum) over the rounds, and the ratio to {REFERENCE}'s median."
    for name in dict.fromkeys(key.workload for key in summary):
        yield f"### {name}: {workloads.load(name).title}"
        yield figures_table(name, summary)
    notes = [f"- {name}: skipped, {reason}" for name, reason in results.skipped.items()]
    notes += [f"- {' / '.join(cell)}: {reason}" for cell, reason in results.failures().items()]
    if notes:
        yield "Not measured:"
        yield "\n".join(notes)


def plot_all(results: Results, folder: Path, suffix: str) -> list[Path]:
    """Rate over tasks in flight, latencies, bandwidth over payload: those that were measured."""
    import matplotlib

    matplotlib.use("Agg")
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
            figure.savefig(drawn[-1], bbox_inches="tight")
    return drawn


def _plot_in_flight(results: Results) -> Any:
    lines: dict[str, list[tuple[float, float]]] = {}
    for key, spread in results.summary().items():
        if key.workload == "limited":
            depth = results.parameters[key.workload][key.case]["in_flight"]
            lines.setdefault(key.contender, []).append((depth, spread.median))
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

    figure, axes = pyplot.subplots()
    for label, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=label)
    axes.set(xscale="log", yscale="log", xlabel=across, ylabel=up)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    return figure


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
                    label=name,
                )
        axes.set(yscale="log", title=f"{workload}, {case}", ylabel="µs")
        axes.grid(visible=True, alpha=0.3)
    grid[0][0].legend(fontsize="small")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Tables and plots from the figures of side_by_side.py."
    )
    parser.add_argument("results", type=Path, help="JSON file written by side_by_side.py")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw plots into this folder")
    parser.add_argument("--format", default="svg", choices=("svg", "png"), help="of the plots")
    options = parser.parse_args()
    results = Results.load(options.results)
    print("\n\n".join(markdown(results)))
    if options.plots:
        try:
            plot_all(results, options.plots, options.format)
        except ImportError as error:
            parser.error(f"plots need matplotlib: {error}")


if __name__ == "__main__":
    main()
