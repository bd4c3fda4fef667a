"""Dataset cards: the YAML that says where a data set keeps its images and labels, and what its classes are.

In: a card's name or path. Out: a validated, frozen `Card`. A card describes any copy of a data set; the
folder that holds this copy is given beside it (`stego-dist shards build CARD --source DIR`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stego_dist.data.colours import distinct_colours
from stego_dist.data.tiles import Tiling
from stego_dist.errors import UserError

IGNORED = 255
"""The id of a pixel without a label, in files and in uint8 arrays."""

ClassId = Annotated[int, Field(ge=0, lt=IGNORED)]
RawId = Annotated[int, Field(ge=0, le=65535)]
Level = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Level, Level, Level]
"""Red, green, blue."""
SplitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
FileName = Annotated[str, Field(pattern=r"^[^/{}]*\{key\}[^/{}]*$")]


class ClassInfo(BaseModel):
    """A class: its name and its colour in pictures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    colour: Colour


class Card(BaseModel):
    """What a data set looks like on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    """What the card is called on the command line."""
    title: str
    """One line for tables and reports."""
    images: str
    """Folder of the images below the source, searched with its subfolders; `{split}` is filled in."""
    image_name: FileName = "{key}"
    """An image's file name without suffix. `{key}` is what it shares with its label; other files are passed over."""
    image_array: str | None = None
    """Images are .mat files (version 5) that hold this array, uint8 (H, W, channels); null: image files."""
    channels: Literal[3, 4] = 3
    """Channels of an image. Of four, the last one infrared, say, the first three are used as they are."""
    labels: str | None = None
    """Folder of the label maps, of the same subfolders; null: the data set has none."""
    label_name: FileName = "{key}"
    """A label map's file name without suffix."""
    label_array: str | None = None
    """Label maps are .mat files that hold this array, integers (H, W); null: lossless image files."""
    label_colours: dict[RawId, Colour] | None = None
    """Label maps are coloured: raw id → its one colour; null: they hold the ids (grey, or palette indices)."""
    labels_partial: bool = False
    """An image may lack its label map, and is then ignored everywhere; else that is an error."""
    label_map: dict[RawId, ClassId] | None = None
    """Raw id in the files → class id; null: ids are class ids already."""
    ignored: list[RawId] = []
    """Raw ids of pixels that count as unlabelled; 255 always is one."""
    classes: list[ClassInfo] | None = None
    """In the order of their ids, as names or {name, colour}. Null: from `classes.yaml` in the source, else
    counted from the ids in the labels."""
    splits: dict[SplitName, str] = Field(default={"train": "train", "val": "val"}, min_length=1)
    """Name of a split → the text that fills `{split}`."""
    default_splits: list[SplitName] | None = None
    """The splits that are built when none are named; null: all."""
    lists: dict[SplitName, str | list[str]] = {}
    """Split → the keys of its images, or a text file below the source (or `--lists DIR`) with one key a line.
    A split without a list has every image of its folder."""
    tile: Tiling | None = None
    """Images are cut into tiles; null: they are taken whole."""
    expected: dict[str, int] | None = None
    """Images (tiles) a split of a complete copy holds; another count is a warning."""
    licence: str = ""
    """Under what terms the data set may be used."""
    where: str = ""
    """Where to get it."""

    @field_validator("classes", mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        """Accept bare names, and give classes without a colour one."""
        if not isinstance(value, list):
            return value
        items = [{"name": item} if isinstance(item, str) else item for item in value]
        own = [_as_colour(item.get("colour")) for item in items if isinstance(item, dict)]
        new = iter(distinct_colours(len(items), [colour for colour in own if colour]))
        return [
            {**item, "colour": next(new)} if isinstance(item, dict) and "colour" not in item else item for item in items
        ]

    @model_validator(mode="after")
    def _check(self) -> Card:
        if len(self.splits) > 1 and "{split}" not in self.images and not {*self.splits} <= {*self.lists}:
            raise ValueError("images has no {split} and not every split a list, so that splits would be the same")
        for field in ("expected", "lists", "default_splits"):
            if unknown := sorted({*(getattr(self, field) or ())} - {*self.splits}):
                raise ValueError(f"{field} names {unknown}, which are not among the splits")
        if self.tile and (self.image_array or self.label_array):
            raise ValueError("tile cuts image files; arrays in .mat files are taken whole")
        self._check_labels()
        return self

    def _check_labels(self) -> None:
        if self.label_colours is not None:
            if self.label_array:
                raise ValueError("label_colours and label_array are both given; a label map has colours or an array")
            if len({*self.label_colours.values()}) < len(self.label_colours):
                raise ValueError("label_colours gives one colour to two ids")
        if both := sorted({*self.ignored} & {*(self.label_map or {})}):
            raise ValueError(f"raw ids {both} are both ignored and in label_map")
        if self.classes is not None:
            names = [c.name for c in self.classes]
            if not 1 <= len(names) <= IGNORED or len({*names}) < len(names):
                raise ValueError(f"classes must be 1 to {IGNORED} different names, got {names}")
            if beyond := sorted({i for i in (self.label_map or {}).values() if i >= len(names)}):
                raise ValueError(f"label_map leads to class ids {beyond}, but there are {len(names)} classes")

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None when the card leaves it to the source."""
        return None if self.classes is None else len(self.classes)

    @property
    def encoding(self) -> dict[str, Any] | None:
        """How files are read where it is not the default way, as JSON gives it back; None where it all is."""
        fields = {"image_array", "channels", "label_array", "label_colours", "labels_partial", "tile"}
        found = self.model_dump(mode="json", include=fields, exclude_defaults=True)
        if self.label_colours is not None:
            found["label_colours"] = sorted([i, *colour] for i, colour in self.label_colours.items())
        return found or None

    def with_classes(self, classes: list[Any], where: str) -> Card:
        """This card with its classes filled in. Raises UserError naming `where` they came from."""
        return _validate({**self.model_dump(), "classes": classes}, where)


def load_card(name_or_path: str | Path) -> Card:
    """The card at a path, or of a name. Raises what `find_card` does, and UserError: damaged YAML, wrong fields."""
    path = find_card(name_or_path)
    value = read_yaml(path, "dataset card")
    if not isinstance(value, dict):
        raise UserError(f"dataset card {path} must hold fields (name: …, images: …), not a {type(value).__name__}")
    return _validate(value, f"dataset card {path}")


def find_card(name_or_path: str | Path) -> Path:
    """The file of a card: a path itself, or of a name in ./shards, the installed cards, the source tree's.

    Raises UserError for a name that is in none of them; it lists those that are.
    """
    text = str(name_or_path)
    if text.endswith((".yaml", ".yml")) or len(Path(text).parts) > 1:
        return Path(text)
    known = list_cards()
    if text not in known:
        raise UserError(
            f"no dataset card is called {text!r}. Known cards: {', '.join(known) or 'none'}. "
            "A card of your own is given by its path (my_card.yaml) or put into ./shards."
        )
    return known[text]


def list_cards() -> dict[str, Path]:
    """Every card that `load_card` finds by name, with its file; of two of one name the one it loads."""
    package = Path(__file__).resolve().parents[1]
    found: dict[str, Path] = {}
    for folder in (Path("shards"), package / "_shards", package.parent / "shards"):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def source_classes(card: Card, root: Path) -> Card:
    """The card with the classes of `root/classes.yaml` when it has none itself and that file exists."""
    path = root / "classes.yaml"
    if card.classes is not None or not path.is_file():
        return card
    value = read_yaml(path, "list of classes")
    if not isinstance(value, list):
        raise UserError(f"{path} must be a YAML list of names or of {{name, colour}}, in the order of their ids")
    return card.with_classes(value, str(path))


def _as_colour(value: Any) -> Colour | None:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return None
    red, green, blue = value
    return (red, green, blue) if all(type(v) is int and 0 <= v <= 255 for v in value) else None


def read_yaml(path: Path, what: str) -> Any:
    """Parse a YAML file. Raises UserError naming it when it is missing or damaged."""
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the {what} {path}: {error}") from None


def _validate(value: dict[str, Any], where: str) -> Card:
    try:
        return Card.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{where} is wrong:\n{error_lines(error)}") from None


def error_lines(error: ValidationError) -> str:
    """One line a field that pydantic refused."""
    return "\n".join(f"  {'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors())
