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


def codes_agree(lines: Sequence[Line], loss: LossConfig, asked: LossConfig | None = None) -> str | None:
    """A sentence when the codes of random pairs agreed on the last lines and are not parting; else None.

    `lines`: what metrics.jsonl holds, oldest first, those without correlations left out by this function. `loss`: with
    the numbers that were trained with; `asked`: as configured, where that is something else.
    """
    recent = [line for line in lines if line.get("code_correlation/random") is not None][-WINDOW:]
    values = [line["code_correlation/random"] or 0.0 for line in recent]
    if not values or min(values) < CORRELATION or values[-1] < values[0] - 0.02:
        return None
    return (
        f"the codes collapse: those of random pairs of positions correlate {values[-1]:.2f} on average; "
        + likely_cause(recent[-1], loss, asked or loss)
    )


def one_cluster(share: float, which: str, line: Line, loss: LossConfig, asked: LossConfig | None = None) -> str | None:
    """A sentence when one cluster takes nearly all positions. `line` is the last one of metrics.jsonl."""
    if not share > LARGEST:
        return None
    return f"one of the {which} clusters takes {share:.1%} of all positions; " + likely_cause(line, loss, asked or loss)


def likely_cause(line: Line, loss: LossConfig, asked: LossConfig) -> str:
    """Which shifts lie below the bulk of their correspondences, and the settings to change."""
    by_hand = [kind for kind, pair in asked.pairs.items() if pair.weight and not isinstance(pair.shift, str)]
    found, blamed = [], []
    for kind, pair in loss.pairs.items():
        above, shift = line.get(f"above_shift/{kind}"), line.get(f"shift/{kind}", pair.shift)
        if above is not None and above > BULK and pair.weight and isinstance(shift, float):
            found.append(f"{above:.0%} of {kind} pairs are above loss.{kind}_pair.shift={shift:g}")
            blamed.append(kind)
    if not found:
        weight = loss.random_pair.weight
        return (
            "no shift lies below most of its correspondences, so random pairs may weigh too little: raise "
            f"loss.random_pair.weight (now {weight if isinstance(weight, str) else format(weight, 'g')}) or the "
            "shifts (loss.*_pair.shift)" + _or_calibrate(by_hand)
        )
    which = "these shifts" if len(found) > 1 else "that shift"
    advice = f"raise {which}" + _or_calibrate([kind for kind in blamed if kind in by_hand])
    return "likely cause: " + ", ".join(found) + f", and what is above its shift attracts; {advice}"


def _or_calibrate(kinds: Sequence[str]) -> str:
    """The other way out, for shifts that were set by hand."""
    if not kinds:
        return ""
    keys = " ".join(f"loss.{kind}_pair.shift=auto" for kind in kinds)
    return f", or have them chosen from the data: {keys} (`stego-dist calibrate` shows what that gives)"
