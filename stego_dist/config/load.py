"""YAML file + overrides → Config. OmegaConf merges and interpolates, pydantic validates.

All errors are reported at once, each as a sentence that names the key, what was found and what is expected.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stego_dist.config.presets import PAIRS
from stego_dist.config.tree import Config, DataConfig
from stego_dist.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read `path`, apply `section.key=value` overrides (values are YAML), validate.

    Raises ConfigError listing every unknown key, wrong type and impossible combination.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"configuration not found: {path} is no file; see the folder configs/ for examples")
    try:
        tree = yaml.safe_load(path.read_text("utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections at the top level")
    return config_of_tree({"name": path.stem, **tree}, overrides, str(path))


def config_of_tree(values: dict[str, Any], overrides: Sequence[str], origin: str) -> Config:
    """The same of a tree of sections, which errors call `origin`."""
    try:
        tree = OmegaConf.create(values)
        given = _overrides(overrides)
        if OmegaConf.select(given, "loss.preset") is not None:
            _forget_coefficients(tree)
        merged = OmegaConf.merge(_defaults(), tree, given)
        resolved = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"{origin}: {str(error).splitlines()[0]}") from None
    return validate(resolved, origin)


def _defaults() -> dict[str, Any]:
    """Every setting that has a default, so that interpolations find it.

    Without the loss's coefficients: a preset fills in those that are not given.
    """
    tree = Config.model_construct(data=DataConfig.model_construct()).model_dump()
    for pair in PAIRS:
        tree["loss"].pop(pair)
    return tree


def _forget_coefficients(tree: DictConfig) -> None:
    """A preset on the command line replaces the coefficients of the file, as any override does."""
    loss = tree.get("loss")
    for pair in PAIRS if isinstance(loss, DictConfig) else ():
        if isinstance(loss.get(pair), DictConfig):
            loss[pair] = {}


def _overrides(overrides: Sequence[str]) -> DictConfig:
    malformed = [text for text in overrides if "=" not in text or text.startswith("=")]
    if malformed:
        raise ConfigError("overrides are written section.key=value; not understood: " + ", ".join(malformed))
    return OmegaConf.from_dotlist(list(overrides))


def validate(values: Any, origin: str) -> Config:
    """Validate a plain tree. Raises ConfigError with one sentence a problem."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        items = error.errors()
    if not any(item["type"] == "value_error" for item in items):
        items += _impossible_besides(values, items)
    sentences = [sentence for item in items for sentence in _sentences(dict(item))]
    count = f"{len(sentences)} problem" + ("s" if len(sentences) > 1 else "")
    raise ConfigError(f"{origin} has {count}:\n" + "\n".join(f"  {s}" for s in sentences))


def _impossible_besides(values: Any, items: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """What is impossible in the rest of the tree, with the keys that are wrong by themselves at their defaults."""
    rest, defaults = copy.deepcopy(values), _defaults()
    node: Any
    known: Any
    defaults["name"] = defaults["data"]["shards"] = "?"
    for item in items:
        *sections, key = item["loc"]
        node, known = rest, defaults
        for section in sections:
            node = node.get(section, {}) if isinstance(node, dict) else {}
            known = known.get(section, {}) if isinstance(known, dict) else {}
        if isinstance(node, dict):
            node.pop(key, None)
            if key in known:
                node[key] = known[key]
    try:
        Config.model_validate(rest)
    except ValidationError as error:
        return [item for item in error.errors() if item["type"] == "value_error"]
    return []


def _sentences(item: dict[str, Any]) -> Iterable[str]:
    key = ".".join(str(part) for part in item["loc"])
    kind, found = item["type"], item["input"]
    if kind == "value_error":
        return str(item["ctx"]["error"]).splitlines()
    if kind == "extra_forbidden":
        return [f"{key}: no such key; {_similar(item['loc'])}"]
    if kind == "missing":
        return [f"{key}: is required and missing."]
    expected = item["msg"].removeprefix("Input should be ")
    return [f"{key}: found {found!r}, expected {expected}."]


def _similar(loc: tuple[Any, ...]) -> str:
    section: type[BaseModel] = Config
    for part in loc[:-1]:
        inner = section.model_fields[str(part)].annotation
        assert isinstance(inner, type) and issubclass(inner, BaseModel)  # only a section refuses keys
        section = inner
    close = difflib.get_close_matches(str(loc[-1]), section.model_fields, n=1, cutoff=0.5)
    known = ", ".join(section.model_fields)
    return f"did you mean {close[0]}?" if close else f"known here: {known}."


def dump_config(config: Config) -> str:
    """The resolved tree as YAML, in the order of the schema; `load_config` reads it back to the same."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
