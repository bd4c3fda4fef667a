"""Names that people gave the clusters (RUN/names.yaml), put over a report's pictures without evaluating again.

A layer of clusters is an image whose indices are clusters, so another palette is all that it takes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stego_dist.inference.model import OpenedRun
from stego_dist.inference.names import Names, hex_colour
from stego_dist.report.panels import Colours, fitted
from stego_dist.rundir import RunDir

NONE = 255
"""Index of pixels that are in no cluster, which are transparent."""


def given_names(run: RunDir, headline: str) -> Names | None:
    """The names of the headline clusters; None where nobody gave any. Raises UserError."""
    if not run.names.exists():
        return None
    opened = OpenedRun.open(run.root)
    return opened.names(headline) if headline == opened.config.eval.clusters else None


def cluster_picture(ids: NDArray[np.int16], tints: Colours, longest: int) -> Image.Image:
    """Clusters (H, W), −1 for none, as an image of indices whose longer side is at most `longest`."""
    image = fitted(np.where(ids < 0, NONE, ids).astype(np.uint8), longest, smooth=False)
    image.putpalette(_palette(tints.tolist()))
    return image


def in_colours_of(data: bytes, names: Names) -> bytes:
    """The bytes of a `cluster_picture`'s file with the palette of the names."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        image.putpalette(_palette([names.classes[place].colour for place in names.of_cluster]))
        held = io.BytesIO()
        image.save(held, format="PNG", transparency=NONE)
    return held.getvalue()


def _palette(colours: Sequence[Sequence[int]]) -> list[int]:
    """256 colours, so that NONE has one too."""
    levels = [level for colour in colours for level in colour]
    return levels + [0] * (3 * 256 - len(levels))


def legend_with(legend: Sequence[Mapping[str, str]], names: Names, *, labelled: bool) -> list[dict[str, str]]:
    """The legend by names; with labels behind the classes, which the other layers show."""
    own = [{"name": c.name, "colour": hex_colour(c.colour)} for c in names.classes]
    kept = [dict(entry) for entry in legend] if labelled else []
    return kept + [entry for entry in own if entry not in kept]


def sheet_titles(sheets: Sequence[Mapping[str, Any]], names: Names | None) -> list[dict[str, Any]]:
    """Contact sheets with a title each and, where there are names, the colour of its class."""
    titled = []
    for sheet in sheets:
        title = f"Cluster {sheet['cluster']}"
        if names is None:
            titled.append({**sheet, "title": title})
            continue
        named = names.classes[names.of_cluster[sheet["cluster"]]]
        own = named.name if named.name == title.lower() else f"{named.name} ({title.lower()})"
        titled.append({**sheet, "title": own, "colour": hex_colour(named.colour)})
    return titled
