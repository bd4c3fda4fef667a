"""How the values of one key are drawn: each kind is a class that says what it takes, what it draws and what it counts.

A new kind is a subclass of `Kind` in KINDS.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


class Kind(ABC):
    """The values of a key."""

    word: ClassVar[str]
    """How YAML calls it."""

    @classmethod
    @abstractmethod
    def read(cls, value: Any, more: Mapping[str, Any]) -> Kind:
        """From `{word: value, **more}` of the YAML file. Raises ValueError saying what is expected."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> Any:
        """A value at random."""

    @abstractmethod
    def probes(self) -> Sequence[Any]:
        """Values that stand for all others when it is checked whether the configuration takes them."""

    @abstractmethod
    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""

    def points(self) -> Sequence[Any] | None:
        """All values; None: they can't be counted."""
        return None

    def to_optuna(self, value: Any) -> Any:
        """A value as `distribution` has it."""
        return value

    def from_optuna(self, value: Any) -> Any:
        """The reverse."""
        return value

    def describe(self) -> dict[str, Any]:
        """For records and axes: `kind`, and `low`, `high` and `log`, or `values`."""
        return {"kind": self.word, **vars(self)}


@dataclass(frozen=True)
class Uniform(Kind):
    """A number from low to high."""

    word = "uniform"
    low: float
    high: float

    @classmethod
    def read(cls, value: Any, more: Mapping[str, Any]) -> Uniform:
        _nothing_else(more)
        return cls(*_interval(value, float))

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(self.low, self.high))

    def probes(self) -> Sequence[float]:
        return self.low, self.low + (self.high - self.low) / math.pi, self.high

    def distribution(self) -> BaseDistribution:
        return FloatDistribution(self.low, self.high)


@dataclass(frozen=True)
class LogUniform(Uniform):
    """A number from low to high, its logarithm evenly spread."""

    word = "loguniform"

    @classmethod
    def read(cls, value: Any, more: Mapping[str, Any]) -> LogUniform:
        _nothing_else(more)
        low, high = _interval(value, float)
        if low <= 0:
            raise ValueError(f"starts at {low:g}, expected a number above 0")
        return cls(low, high)

    def draw(self, rng: np.random.Generator) -> float:
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(drawn, self.low), self.high)

    def distribution(self) -> BaseDistribution:
        return FloatDistribution(self.low, self.high, log=True)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "log": True}


@dataclass(frozen=True)
class IntRange(Kind):
    """A whole number from low to high, both included, `step` apart."""

    word = "int"
    low: int
    high: int
    step: int = 1

    @classmethod
    def read(cls, value: Any, more: Mapping[str, Any]) -> IntRange:
        _nothing_else({key: given for key, given in more.items() if key != "step"})
        step = more.get("step", 1)
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise ValueError(f"found step {step!r}, expected a whole number from 1")
        low, high = _interval(value, int)
        if step > high - low:
            raise ValueError(f"found step {step}, expected at most {high - low}")
        return cls(int(low), int(low + (high - low) // step * step), step)

    def draw(self, rng: np.random.Generator) -> int:
        return self.low + self.step * int(rng.integers((self.high - self.low) // self.step + 1))

    def probes(self) -> Sequence[int]:
        return self.low, self.low + self.step, self.high

    def distribution(self) -> BaseDistribution:
        return IntDistribution(self.low, self.high, step=self.step)

    def points(self) -> Sequence[int]:
        return range(self.low, self.high + 1, self.step)


@dataclass(frozen=True)
class Choice(Kind):
    """One of several values, each as likely."""

    word = "choice"
    values: tuple[Any, ...]

    @classmethod
    def read(cls, value: Any, more: Mapping[str, Any]) -> Choice:
        _nothing_else(more)
        if not isinstance(value, list) or not value:
            raise ValueError(f"found {value!r}, expected a list of values")
        if any(other in value[:n] for n, other in enumerate(value)):
            raise ValueError(f"found {value!r}, expected each value once")
        return cls(tuple(value))

    def draw(self, rng: np.random.Generator) -> Any:
        return self.values[int(rng.integers(len(self.values)))]

    def probes(self) -> Sequence[Any]:
        return self.values

    def points(self) -> Sequence[Any]:
        return self.values

    def distribution(self) -> BaseDistribution:
        return CategoricalDistribution(list(range(len(self.values))))  # by number: Optuna takes no lists

    def to_optuna(self, value: Any) -> Any:
        return self.values.index(value)

    def from_optuna(self, value: Any) -> Any:
        return self.values[value]


class Grid(Choice):
    """Every one of several values, crossed with those of the other grids."""

    word = "grid"


KINDS: dict[str, type[Kind]] = {kind.word: kind for kind in (Uniform, LogUniform, IntRange, Choice, Grid)}


def read_kind(value: Any) -> Kind:
    """A kind from its YAML, `{word: …}`. Raises ValueError saying what is expected."""
    words = [key for key in value if key in KINDS] if isinstance(value, dict) else []
    if len(words) != 1:
        raise ValueError(f"found {value!r}, expected one of {', '.join(f'{{{word}: […]}}' for word in KINDS)}")
    (word,) = words
    return KINDS[word].read(value[word], {key: given for key, given in value.items() if key != word})


def _interval(value: Any, number: type) -> tuple[Any, Any]:
    wanted = "whole numbers" if number is int else "numbers"
    types = (int,) if number is int else (int, float)
    fine = isinstance(value, list) and len(value) == 2
    fine = fine and all(isinstance(v, types) and not isinstance(v, bool) and math.isfinite(v) for v in value)
    if not fine or not value[0] < value[1]:
        raise ValueError(f"found {value!r}, expected two {wanted} [low, high], low below high")
    return number(value[0]), number(value[1])


def _nothing_else(more: Mapping[str, Any]) -> None:
    if more:
        raise ValueError(f"found {', '.join(map(str, more))} besides, expected nothing more")
