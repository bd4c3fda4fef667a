"""The names editor: RUN/names.yaml as it is now, and changed by one name and colour at a time.

The file is the only state: it is read on every question, so that what others write there shows, and an edit says which
state it was made on, so that none is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stego_dist.data.colours import Colour, distinct_colours
from stego_dist.inference.model import OpenedRun, Readout
from stego_dist.inference.names import (
    NamedClass,
    Names,
    hex_colour,
    merged_by_name,
    name_error,
    parsed_colour,
    read_names,
    write_names,
)
from stego_dist.rundir import digest, writing_to
from stego_dist.serve.refusals import Refused

KEYS = {"clusters", "name", "colour", "version"}


class NamesEditor:
    """Names of the clusters of one readout of a run."""

    def __init__(self, opened: OpenedRun, readout: Readout) -> None:
        self.path, self.defaults = opened.run.names, opened.defaults(readout)
        headline = opened.config.eval.clusters
        self.locked: str | None = None
        """Why names can't be changed here; None where they can."""
        if readout == headline:
            self._of = opened.digest(readout)
        else:
            self.locked = f"These are {readout} classes: names.yaml has the names of the {headline} clusters."

    def current(self) -> Names:
        """The names now. Raises UserError: the file can't be read, or belongs to other clusters."""
        return self.defaults if self.locked else read_names(self.path, self.defaults, self._of)

    def described(self, names: Names) -> dict[str, Any]:
        """Name and colour by cluster, and the `version` that an edit has to give."""
        clusters = [{"name": c.name, "colour": hex_colour(c.colour)} for c in _by_cluster(names)]
        return {"version": digest(clusters), "clusters": clusters}

    def edit(self, request: Any) -> Names:
        """Name clusters, and write the file: {clusters: [0, …], name, colour: "#rrggbb" or null, version}.

        Clusters of one name are one class, of one colour: of the given one; where it is null, of the one that the name
        has already, else that of the clusters, or a new one where they leave others behind.
        Raises Refused: what was asked makes no sense (400), or was asked of other names (409); UserError: the file
        can't be read or written.
        """
        if self.locked:
            raise Refused(409, self.locked)
        names = self.current()
        chosen, name, colour = _checked(request, len(names.of_cluster))
        if request["version"] != self.described(names)["version"]:
            raise Refused(409, "names.yaml was changed elsewhere meanwhile; these are its names now. Save again.")
        before = _by_cluster(names)
        colour = colour or _colour_of(name, chosen, before)
        after = [NamedClass(name, colour) if i in chosen or c.name == name else c for i, c in enumerate(before)]
        names = merged_by_name(after)
        with writing_to(self.path.parent, "The names were not kept."):
            write_names(self.path, names, self._of)
        return names


def _by_cluster(names: Names) -> list[NamedClass]:
    return [names.classes[place] for place in names.of_cluster]


def _checked(request: Any, count: int) -> tuple[set[int], str, Colour | None]:
    """Clusters, name and colour of a request. Raises Refused."""
    if not isinstance(request, Mapping) or set(request) != KEYS:
        raise Refused(400, "An edit has clusters, a name, a colour and a version.")
    clusters, name, colour = request["clusters"], request["name"], request["colour"]
    if not isinstance(clusters, list) or not clusters or not all(type(c) is int and 0 <= c < count for c in clusters):
        raise Refused(400, f"An edit names clusters from 0 to {count - 1}.")
    name = name.strip() if isinstance(name, str) else name
    if wrong := name_error(name):
        raise Refused(400, f"{wrong[0].upper()}{wrong[1:]}.")
    try:
        return set(clusters), name, None if colour is None else parsed_colour(str(colour))
    except ValueError as error:
        raise Refused(400, f"{error}.") from None


def _colour_of(name: str, chosen: set[int], before: list[NamedClass]) -> Colour:
    """The colour of clusters whose new name came without one."""
    others = [c for i, c in enumerate(before) if i not in chosen]
    first = before[min(chosen)]
    same = next((c.colour for c in others if c.name == name), None)
    if same is not None:
        return same
    left = {before[i].name for i in chosen} & {c.name for c in others}
    return distinct_colours(1, sorted({c.colour for c in before}))[0] if left else first.colour
