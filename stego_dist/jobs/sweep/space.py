"""The space of a sweep: which keys of the configuration are varied, and how; checked before anything starts.

In: YAML, `section.key: {kind: …}` a line. Out: the values of trial n, a function of (seed, n) alone, and its
configuration. Each key has random numbers of its own, so adding one leaves what the others draw as it was.

A file of its own, not a section of the configuration: that is the record of one run, and a trial's must differ from
another's in the sampled keys alone; and a space serves many configurations.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from stego_dist.config import Config
from stego_dist.config.load import validate
from stego_dist.config.presets import PAIRS
from stego_dist.errors import ConfigError
from stego_dist.jobs.sweep.kinds import Choice, Grid, Kind, LogUniform, Uniform, read_kind

Values = dict[str, Any]
"""What a trial has in each sampled key."""

DEFAULT: dict[str, Kind] = {
    "loss.self_pair.weight": LogUniform(0.1, 2.0),
    "loss.self_pair.shift": Uniform(0.0, 0.8),
    "loss.knn_pair.weight": LogUniform(0.1, 2.0),
    "loss.knn_pair.shift": Uniform(0.0, 0.8),
    "loss.random_pair.weight": LogUniform(0.1, 2.0),
    "loss.random_pair.shift": Uniform(0.1, 1.0),
}
"""The six numbers of the loss, about as wide as the published presets."""
FIXED = ("name", "run_dir", "features.dir")
"""Keys that the sweep sets."""
LARGEST_GRID = 100_000


class Space:
    """Kinds by key, in the order of the file."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self.kinds = dict(kinds)
        self.grid = {key: kind.values for key, kind in self.kinds.items() if isinstance(kind, Grid)}

    @property
    def grid_size(self) -> int:
        """Points of the crossed grids; 1 without any."""
        return math.prod(len(values) for values in self.grid.values())

    def random(self, seed: int, n: int) -> Values:
        """Trial n at random: draw n ÷ grid_size at every point of the crossed grids in turn."""
        draw, point = divmod(n, self.grid_size)
        crossed = _at(self.grid, point)
        return {
            key: crossed[key] if key in crossed else kind.draw(np.random.default_rng([seed, draw, _number(key)]))
            for key, kind in self.kinds.items()
        }

    def points(self) -> list[Values]:
        """All trials of a grid search. Raises ConfigError naming the keys whose values can't be counted."""
        counted = {key: kind.points() for key, kind in self.kinds.items()}
        known = {key: values for key, values in counted.items() if values is not None}
        if len(known) < len(counted):
            endless = [f"{key} ({kind.word})" for key, kind in self.kinds.items() if key not in known]
            raise ConfigError(
                f"--search grid needs keys with values that can be counted (grid, choice, int), which "
                f"{', '.join(endless)} {'have' if len(endless) > 1 else 'has'} not; use --search random or optuna"
            )
        if (count := math.prod(map(len, known.values()))) > LARGEST_GRID:
            raise ConfigError(f"--search grid: {count:,} points are too many, at most {LARGEST_GRID:,} can be listed")
        return [dict(zip(known, values)) for values in itertools.product(*known.values())]

    def describe(self) -> list[dict[str, Any]]:
        """For records: a dictionary a key."""
        return [{"key": key, **kind.describe()} for key, kind in self.kinds.items()]

    def to_yaml(self) -> dict[str, Any]:
        """What `read_space` reads."""
        tree = {}
        for key, kind in self.kinds.items():
            said = {**vars(kind)}
            main = list(said.pop("values")) if "values" in said else [said.pop("low"), said.pop("high")]
            tree[key] = {kind.word: main, **said}
        return tree


def read_space(tree: Any, base: Config, origin: str) -> Space:
    """A space from parsed YAML. Raises ConfigError that lists every problem: unknown keys, kinds, impossible values."""
    if not isinstance(tree, dict) or not tree:
        raise ConfigError(f"{origin}: expected a mapping, for instance loss.self_pair.shift: {{uniform: [0.0, 0.8]}}")
    problems, kinds = [], {}
    for key, value in tree.items():
        try:
            kinds[str(key)] = read_kind(value)
        except ValueError as error:
            problems.append(f"{key}: {error}.")
    for key, kind in kinds.items():
        problems += _refused(key, kind, base)
    if problems:
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        raise ConfigError(f"{origin} has {count}:\n" + "\n".join(f"  {problem}" for problem in problems))
    return Space(kinds)


def load_space(path: Path | None, base: Config) -> Space:
    """The space in a file, or the default one. Raises ConfigError, see `read_space`."""
    if path is None:
        return Space(DEFAULT)
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"--space {path}: {error.strerror}; see `stego-dist sweep --help` for an example") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--space {path} is not valid YAML: {error}") from None
    return read_space(tree, base, str(path))


def with_values(base: Config, values: Mapping[str, Any]) -> Config:
    """The base configuration with other values. Raises ConfigError when they are impossible together.

    A preset replaces the base's coefficients, as it does on the command line.
    """
    tree = base.model_dump(mode="json")
    if "loss.preset" in values:
        tree["loss"] = {key: value for key, value in tree["loss"].items() if key not in PAIRS}
    for key, value in values.items():
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            inner = node.get(section)
            node[section] = node = inner if isinstance(inner, dict) else {}
        node[last] = value
    shown = ", ".join(f"{key}={value}" for key, value in values.items())
    return validate(tree, f"the configuration with {shown}")


def _refused(key: str, kind: Kind, base: Config) -> Iterator[str]:
    """Sentences about values that the configuration does not take, each kind of problem once."""
    if key in FIXED:
        yield f"{key}: is set by the sweep, so it can't be varied."
        return
    said = set()
    for value in kind.probes():
        try:
            with_values(base, {key: value})
        except ConfigError as error:
            for line in str(error).splitlines()[1:]:
                if line not in said:
                    said.add(line)
                    yield line.strip()
            if not isinstance(kind, Choice):
                return  # one value of an interval says it


def _at(grid: Mapping[str, tuple[Any, ...]], point: int) -> Values:
    """The point with this number of the crossed grids; the last key changes first."""
    found = {}
    for key, values in reversed(list(grid.items())):
        point, place = divmod(point, len(values))
        found[key] = values[place]
    return found


def _number(key: str) -> int:
    return zlib.crc32(key.encode())
