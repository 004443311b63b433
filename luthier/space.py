"""What a search may vary: for each path of the recipe a range or a list of values."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import model_validator

from luthier.choice import Settings

MANY = 64  # combinations of corner values that are tried when a recipe is loaded


class Dimension(Settings):
    """The values that one path of the recipe may take: from `low` to `high`, or one of `choices`."""

    low: int | float | None = None
    """Smallest value, in the unit of the path."""
    high: int | float | None = None
    """Largest value, in the unit of the path; where both are whole numbers, only such are tried."""
    log: bool = False
    """Whether values are drawn evenly by their size: as many from 1e-5 to 1e-4 as from 1e-4 to 1e-3."""
    step: int | float | None = None
    """Distance of neighbouring values from `low` on; without it every number between, of whole ones each."""
    choices: list[Any] | None = None
    """The values themselves, of any form that the path takes; their order means nothing."""

    @model_validator(mode="after")
    def _hangs_together(self) -> Dimension:
        if self.choices is not None:
            if (self.low, self.high, self.log, self.step) != (None, None, False, None):
                raise ValueError("has choices, so low, high, log and step say nothing; write one or the other")
            if not self.choices:
                raise ValueError("has no choices; list one or more values")
            if any(value in self.choices[:n] for n, value in enumerate(self.choices)):
                raise ValueError("names one of its choices twice; keep one of them")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs low and high, or choices")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be less than high, and {self.low} is not less than {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale has no {self.low}; let low be more than 0")
        if self.log and self.step is not None:
            raise ValueError("a log scale takes no step; list the values as choices")
        if self.step is not None:
            if self.step <= 0:
                raise ValueError("step must be more than 0")
            if self.whole and not isinstance(self.step, int):
                raise ValueError("step must be a whole number as low and high are")
            steps = (self.high - self.low) / self.step
            if abs(steps - round(steps)) > 1e-9 * max(1.0, steps) or round(steps) < 1:
                raise ValueError(f"steps of {self.step} do not lead from {self.low} to {self.high}")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def values(self) -> list[Any] | None:
        """Every value where there are so many and no more; None where there is always one between."""
        if self.choices is not None:
            return list(self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.step is None and not self.whole:
            return None
        step = 1 if self.step is None else self.step
        return [self.low + n * step for n in range(round((self.high - self.low) / step) + 1)]

    def corners(self) -> list[Any]:
        """The values at the ends: those that a recipe must be valid with."""
        return list(self.choices) if self.choices is not None else [self.low, self.high]


def corners(space: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """Values to try a recipe with: each end of each path by itself, then all combinations of ends where these are few."""
    yield from ({path: value} for path, dimension in space.items() for value in dimension.corners())
    if len(space) > 1 and math.prod(len(dimension.corners()) for dimension in space.values()) <= MANY:
        for values in itertools.product(*(dimension.corners() for dimension in space.values())):
            yield dict(zip(space, values, strict=True))


def shown(value: Any) -> str:
    """A value as people write it: `0.000312`, `8`, `lora`."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def told(params: Mapping[str, Any]) -> str:
    """`learning_rate 0.000312, rank 8`: values by the shortest ends of their paths that tell them apart."""
    names = short_names(list(params))
    return ", ".join(f"{names[path]} {shown(value)}" for path, value in params.items())


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The last key of each path, or the whole path where another one ends alike."""
    ends = [path.rpartition(".")[2] for path in paths]
    return {path: end if ends.count(end) == 1 else path for path, end in zip(paths, ends, strict=True)}
