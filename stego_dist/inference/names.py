"""Names of clusters: RUN/names.yaml, which prediction, report and exports obey without any retraining.

    of: kmeans 3f2a91c07b1d          which clusters the names belong to; retrained ones refuse them
    clusters:
      0: {name: road, colour: "#804080"}
      1: {name: car}                 colours that are left out are chosen
      2: {name: road}                the same name: one class

Classes are numbered in the order in which their names first stand.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stego_dist.data.colours import Colour, distinct_colours
from stego_dist.errors import ConfigError, StaleInputError, UserError
from stego_dist.rundir import atomic_path

LONGEST = 100
"""Characters of a name."""
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
HEADER = """\
# Names and colours of this run's clusters. Clusters of one name are one class.
# predict, report, export and serve obey this file; nothing is trained again.
"""


@dataclass(frozen=True)
class NamedClass:
    """A class that people see."""

    name: str
    colour: Colour


@dataclass(frozen=True)
class Names:
    """Classes, and the class of each cluster."""

    classes: tuple[NamedClass, ...]
    of_cluster: tuple[int, ...]
    """Index of the class of each of the K clusters."""

    @property
    def merged(self) -> bool:
        """Whether some class has several clusters, or none, or another number."""
        return self.of_cluster != tuple(range(len(self.classes)))


def default_names(
    clusters: int, classes: Sequence[NamedClass] = (), cluster_to_class: Sequence[int] | None = None
) -> Names:
    """Names before anybody gave any: of the classes that an evaluation matched, else "cluster N" in distinct colours.

    cluster_to_class: index of the matched class or −1, by cluster; None: there was no evaluation with labels.
    """
    own = distinct_colours(clusters, [c.colour for c in classes])
    found = [classes[c] if c >= 0 else None for c in cluster_to_class or [-1] * clusters]
    return merged_by_name([match or NamedClass(f"cluster {i}", own[i]) for i, match in enumerate(found)])


def merged_by_name(named: Sequence[NamedClass]) -> Names:
    """One class for each different name of K clusters; its colour is that which its first cluster has."""
    places: dict[str, int] = {}
    classes: list[NamedClass] = []
    for entry in named:
        if entry.name not in places:
            places[entry.name] = len(classes)
            classes.append(entry)
    return Names(tuple(classes), tuple(places[entry.name] for entry in named))


def clusters_digest(kind: str, centres: bytes) -> str:
    """What names.yaml says its names are of: the kind of clusters and a digest of their centres."""
    return f"{kind} {hashlib.sha256(centres).hexdigest()[:12]}"


def read_names(path: Path, defaults: Names, of: str) -> Names:
    """The file's names over the `defaults` of all clusters; these alone where there is no file.

    Raises UserError listing everything that is wrong in it, StaleInputError when it belongs to other clusters.
    """
    if not path.exists():
        return defaults
    try:
        value = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"names of clusters: {path} can't be read: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"names of clusters: {path} should have the keys `of` and `clusters`")
    found, errors = _parsed(value.get("clusters"), len(defaults.of_cluster))
    errors += [f"{key!r}: no such key; there are `of` and `clusters`" for key in value if key not in ("of", "clusters")]
    if errors:
        raise UserError(f"names of clusters: {path}:\n" + "\n".join(f"  {line}" for line in errors))
    if value.get("of") not in (None, of):
        raise StaleInputError(
            f"{path} names clusters {value['of']}, but the model has {of}: it was clustered again since. Look at the "
            f"report, put the new names there with `of: {of}`, or remove the file"
        )
    return _over(defaults, found)


def write_names(path: Path, names: Names, of: str) -> None:
    """Write all names and colours, atomically."""
    lines = [HEADER, f"of: {of}\n", "clusters:\n"]
    for cluster, place in enumerate(names.of_cluster):
        entry = names.classes[place]
        text = yaml.safe_dump(entry.name, allow_unicode=True, default_style='"', width=10_000).strip()
        lines.append(f'  {cluster}: {{name: {text}, colour: "{hex_colour(entry.colour)}"}}\n')
    with atomic_path(path) as tmp:
        tmp.write_text("".join(lines), "utf-8")


def changed_names(names: Names, changes: Sequence[str]) -> Names:
    """Names after changes such as "3=road" and "3=#804080".

    A name that is another cluster's too comes with its colour, a colour is that of all clusters of the name. Raises
    ConfigError listing everything that is wrong.
    """
    entries = [names.classes[i] for i in names.of_cluster]
    errors = []
    for change in changes:
        cluster, mark, value = change.partition("=")
        wrong = None if value.startswith("#") else name_error(value)
        if not mark or not cluster.isdecimal() or int(cluster) >= len(entries):
            errors.append(f"{change!r}: expected CLUSTER=NAME, with a cluster from 0 to {len(entries) - 1}")
        elif wrong is not None:
            errors.append(f"{change!r}: {wrong}")
        elif value.startswith("#"):
            try:
                colour = parsed_colour(value)
            except ValueError as error:
                errors.append(f"{change!r}: {error}")
                continue
            same = entries[int(cluster)].name
            entries = [NamedClass(e.name, colour) if e.name == same else e for e in entries]
        else:
            entries[int(cluster)] = _renamed(entries, int(cluster), value)
    if errors:
        raise ConfigError("--set:\n" + "\n".join(f"  {line}" for line in errors))
    return merged_by_name(entries)


def _renamed(entries: Sequence[NamedClass], cluster: int, name: str) -> NamedClass:
    """A cluster under a new name: in the colour that the name has, else in its own, else in a new one."""
    others = [entry for i, entry in enumerate(entries) if i != cluster]
    for entry in others:
        if entry.name == name:
            return entry
    colour, taken = entries[cluster].colour, [entry.colour for entry in others]
    return NamedClass(name, distinct_colours(1, taken)[0] if colour in taken else colour)


def hex_colour(colour: Colour) -> str:
    """ "#rrggbb"."""
    return "#" + bytes(colour).hex()


def parsed_colour(text: str) -> Colour:
    """The colour of "#rrggbb"; raises ValueError."""
    if not _COLOUR.fullmatch(text):
        raise ValueError(f"{text!r} is no colour; write it as '#rrggbb'")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def name_error(name: Any) -> str | None:
    """What is wrong with a name, if anything."""
    if not isinstance(name, str) or not name.strip():
        return "a name is a text"
    if len(name) > LONGEST or not name.isprintable():
        return f"a name has at most {LONGEST} characters, none of them a control character"
    return None


Entry = tuple[str | None, Colour | None]


def _parsed(value: Any, clusters: int) -> tuple[dict[int, Entry], list[str]]:
    """Name and colour, where they are given, by cluster; and what is wrong."""
    if not isinstance(value, Mapping):
        return {}, ["clusters: expected entries such as `0: {name: road, colour: '#804080'}`"]
    found: dict[int, Entry] = {}
    errors: list[str] = []
    for cluster, entry in value.items():
        where = f"clusters.{cluster}"
        if not isinstance(cluster, int) or not 0 <= cluster < clusters:
            errors.append(f"{where}: no such cluster; there are 0 to {clusters - 1}")
            continue
        if not isinstance(entry, Mapping) or not set(entry) <= {"name", "colour"}:
            errors.append(f"{where}: expected {{name: …, colour: '#rrggbb'}}")
            continue
        name, colour = entry.get("name"), None
        if name is not None and (wrong := name_error(name)):
            errors.append(f"{where}.name: {wrong}")
        try:
            colour = parsed_colour(str(entry["colour"])) if entry.get("colour") is not None else None
        except ValueError as error:
            errors.append(f"{where}.colour: {error}")
        found[cluster] = (name, colour)
    return found, errors


def _over(defaults: Names, found: Mapping[int, Entry]) -> Names:
    """Defaults with what the file says; a name that has a colour somewhere has it everywhere."""
    given = {name: colour for name, colour in reversed(list(found.values())) if name is not None and colour}
    named = []
    for cluster, place in enumerate(defaults.of_cluster):
        default = defaults.classes[place]
        name, colour = found.get(cluster, (None, None))
        name = default.name if name is None else name
        named.append(NamedClass(name, colour or given.get(name) or default.colour))
    return merged_by_name(named)
