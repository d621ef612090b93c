"""What a measurement returns."""

from __future__ import annotations

from typing import TypeAlias

#: By name: a number, or what happened in words.
Figures: TypeAlias = dict[str, float | str]
