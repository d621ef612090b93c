"""A run's figures: every sample, kept as JSON as it was measured, and their summary."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = 1


class Key(NamedTuple):
    """One figure of one contender."""

    workload: str
    case: str
    measure: str
    contender: str


@dataclass(frozen=True)
class Sample:
    """One cell in one round."""

    workload: str
    case: str
    contender: str
    round: int
    figures: dict[str, float]
    error: str | None = None  # why there are no figures
    took: float = 0.0  # seconds, start and end included


@dataclass(frozen=True)
class Spread:
    """A figure over all rounds."""

    median: float
    min: float
    max: float
    rounds: int


@dataclass
class Results:
    """Everything of one run."""

    machine: dict[str, Any]
    commit: str | None
    versions: dict[str, str]
    started: str  # date and time, UTC
    options: dict[str, Any]
    skipped: dict[str, str] = field(default_factory=dict)  # contender: why
    parameters: dict[str, dict[str, dict[str, Any]]] = field(
        default_factory=dict
    )  # by workload and case
    samples: list[Sample] = field(default_factory=list)

    @property
    def python(self) -> tuple[int, ...]:
        """Major and minor version."""
        version = str(self.machine["python"]).split()[-1]
        return tuple(int(part) for part in version.split(".")[:2])

    def summary(self) -> dict[Key, Spread]:
        """Median, minimum and maximum of every figure, in the order of the run."""
        values: dict[Key, list[float]] = defaultdict(list)
        for sample in self.samples:
            for measure, value in sample.figures.items():
                values[Key(sample.workload, sample.case, measure, sample.contender)].append(value)
        return {
            key: Spread(statistics.median(figures), min(figures), max(figures), len(figures))
            for key, figures in values.items()
        }

    def failures(self) -> dict[tuple[str, str, str], str]:
        """Cells that could not be measured in some round: the last reason of each."""
        return {
            (sample.workload, sample.case, sample.contender): sample.error
            for sample in self.samples
            if sample.error
        }

    def save(self, path: Path) -> None:
        """Writes samples and summary."""
        summary = [{**key._asdict(), **asdict(spread)} for key, spread in self.summary().items()]
        document = {"format": FORMAT, **asdict(self), "summary": summary}
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Reads what `save` wrote."""
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            raise ValueError(f"{path} is not in format {FORMAT}")
        document.pop("summary")
        samples = [Sample(**sample) for sample in document.pop("samples")]
        return cls(**document, samples=samples)
