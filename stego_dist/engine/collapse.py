"""Collapse has a name: all codes agree, or one cluster takes everything. Pure functions of logged numbers.

The usual cause is a shift below the bulk of the correspondences of its pairs: then nearly all pairs attract, those of
unrelated images too, and the best code is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stego_dist.config import LossConfig

Line = Mapping[str, float | None]
CORRELATION = 0.8
"""Mean code correlation of random pairs above which codes count as equal (healthy runs: below .3)."""
LARGEST = 0.95
"""Share of all positions above which one cluster counts as everything."""
WINDOW = 5
"""Logged lines that must agree while a run goes on."""
BULK = 0.5
"""Share of pairs above their shift from which on the shift is below the bulk."""


def codes_agree(lines: Sequence[Line], loss: LossConfig) -> str | None:
    """A sentence when the codes of random pairs agreed on the last lines and are not parting; else None.

    `lines`: what metrics.jsonl holds, oldest first, those without correlations left out by this function.
    """
    recent = [line for line in lines if line.get("code_correlation/random") is not None][-WINDOW:]
    values = [line["code_correlation/random"] or 0.0 for line in recent]
    if not values or min(values) < CORRELATION or values[-1] < values[0] - 0.02:
        return None
    return (
        f"the codes collapse: those of random pairs of positions correlate {values[-1]:.2f} on average; "
        + likely_cause(recent[-1], loss)
    )


def one_cluster(share: float, which: str, line: Line, loss: LossConfig) -> str | None:
    """A sentence when one cluster takes nearly all positions. `line` is the last one of metrics.jsonl."""
    if not share > LARGEST:
        return None
    return f"one of the {which} clusters takes {share:.1%} of all positions; " + likely_cause(line, loss)


def likely_cause(line: Line, loss: LossConfig) -> str:
    """Which shifts lie below the bulk of their correspondences, and the settings to change."""
    found = []
    for name, pair in (("self", loss.self_pair), ("knn", loss.knn_pair), ("random", loss.random_pair)):
        above = line.get(f"above_shift/{name}")
        if above is not None and above > BULK and pair.weight:
            found.append(f"{above:.0%} of {name} pairs are above loss.{name}_pair.shift={pair.shift:g}")
    if not found:
        return (
            "no shift lies below most of its correspondences, so random pairs may weigh too little: raise "
            f"loss.random_pair.weight (now {loss.random_pair.weight:g}) or the shifts (loss.*_pair.shift)"
        )
    which = "these shifts" if len(found) > 1 else "that shift"
    return "likely cause: " + ", ".join(found) + f", and what is above its shift attracts; raise {which}"
