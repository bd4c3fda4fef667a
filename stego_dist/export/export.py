"""`export RUN`: write the model, check what was written, describe it.

1. open the run: backbone, trained part, names (names.yaml is obeyed);
2. trace the whole path, for images of any size or, where the network fixes it, of some sizes;
3. write it into a folder that is not there yet under its name;
4. run what was written by its own runtime against the Python path; beyond the tolerance the folder vanishes;
5. classes.json, MODEL_CARD.md, parity.json, for ONNX example.py; only then the folder gets its name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from rich.table import Table

from stego_dist import console
from stego_dist.engine.record import check_backbone
from stego_dist.errors import UserError
from stego_dist.export import formats
from stego_dist.export.about import Exported, describe, properties
from stego_dist.export.card import model_card
from stego_dist.export.example import example
from stego_dist.export.formats import SUFFIX, Format, NotDynamic, Outputs, Run, Size
from stego_dist.export.module import Portable
from stego_dist.export.parity import Case, check, compare, python_scores
from stego_dist.inference.model import Model, OpenedRun, Readout, Scale, Scorer
from stego_dist.inference.modelfile import FILE, write_model_file
from stego_dist.rundir import atomic_path, write_json, writing_to

TOLERANCE = 1e-4
"""Largest difference of a score (a cosine, or a probability) that is accepted."""
MARK = "classes.json"
"""What a folder holds that an earlier export wrote, and that may be replaced."""
WHOLE = 1 << 30
"""A window that every image fits into."""


@dataclass(frozen=True)
class Options:
    """How to export; None: as the run is evaluated."""

    format: Format
    readout: Readout | None = None
    scale: Scale | None = None
    flip: bool | None = None
    sizes: tuple[Size, ...] | None = None
    """The only sizes (H, W) that images may have; None: any, where the network allows it."""
    tolerance: float = TOLERANCE
    overrides: tuple[str, ...] = ()


def export(root: Path, options: Options, out: Path | None = None) -> Path:
    """Export a run into `out`, by default RUN/export/FORMAT; returns that folder.

    Raises UserError: no run, packages that are missing, a network that can't be traced, a folder that holds something
    else, a file that differs from the Python path by more than the tolerance. Then nothing is left behind.
    """
    if options.format == "onnx":
        formats.check_packages()
    opened = OpenedRun.open(root, options.overrides)
    out = out or opened.run.root / "export" / options.format
    if out.exists() and not (out / MARK).is_file():
        raise UserError(f"{out} is there and is no earlier export; give another folder by --out")
    what, reference = _open(opened, options)
    with writing_to(out, "Nothing was exported."), atomic_path(out) as folder:
        folder.mkdir()
        what = _write(what, folder, options)
        cases = _checked(what, folder, reference, options.tolerance)
        write_json(folder / MARK, describe(what))
        runtime, usage = _runtime(what.format), _usage(what)
        (folder / "MODEL_CARD.md").write_text(model_card(what, cases, runtime, usage), "utf-8")
        records = [case.record() for case in cases]
        write_json(folder / "parity.json", {"tolerance": options.tolerance, "runtime": runtime, "cases": records})
        if what.format == "onnx":
            (folder / "example.py").write_text(example(what.scale, bool(what.sizes)), "utf-8")
    return out


def _open(opened: OpenedRun, options: Options) -> tuple[Exported, Model]:
    """What is to be exported, and the Python path that it is compared with."""
    readout, e = opened.readout(options.readout), opened.config.eval
    backbone = opened.backbone()
    if opened.file is None:
        check_backbone(opened.run, backbone.weights_digest())
    scorer = Scorer(backbone, opened.segmenter, readout, flip=e.flip if options.flip is None else options.flip)
    names, scale = opened.names(readout), options.scale or e.resolution
    reference = Model(scorer, names, scale="native", window=WHOLE)
    return Exported(opened, scorer, names, options.format, readout, scale, ((FILE, None),)), reference


def _write(what: Exported, folder: Path, options: Options) -> Exported:
    """Write the model's files; returns what is exported with their names."""
    if what.format == "safetensors":
        _write_safetensors(what, folder, options)
        return what
    module, sizes = Portable(what.scorer, what.names), options.sizes
    if sizes is None:
        try:
            program = formats.trace(module, None)
        except NotDynamic as error:
            sizes = fallback_sizes(what)
            listed = " ".join(f"{h}x{w}" for h, w in sizes)
            console.warn(
                f"{what.opened.config.backbone.name} can't be traced for images of any size ({error}). It is exported "
                f"for these sizes alone, a file each: {listed}. Others: --sizes HxW …"
            )
        else:
            return _write_traced(what, folder, {None: program})
    return _write_traced(what, folder, {size: formats.trace(module, size) for size in sizes})


def _write_traced(what: Exported, folder: Path, programs: dict[Size | None, torch.export.ExportedProgram]) -> Exported:
    suffix = SUFFIX[what.format]
    named = {size: f"model{f'_{size[0]}x{size[1]}' if size else ''}{suffix}" for size in programs}
    what = replace(what, files=tuple((file, size) for size, file in named.items()))
    about = properties(describe(what))
    for size, program in programs.items():
        path = folder / named[size]
        if what.format == "onnx":
            formats.write_onnx(program, path, about, dynamic=size is None)
        else:
            formats.write_torch(program, path, about)
    return what


def _write_safetensors(what: Exported, folder: Path, options: Options) -> None:
    """The file has every readout; what was asked for becomes what `Model.load` takes when it is told nothing."""
    if options.sizes:
        raise UserError("--sizes: a safetensors file takes images of any size; leave it out")
    if what.readout == "linear" or what.scale == "native":
        raise UserError(
            'a safetensors file has every readout, and Model.load(FILE, readout="linear", scale="native") chooses; '
            "leave out --readout linear and --scale native"
        )
    opened = what.opened
    chosen = {"clusters": what.readout, "resolution": what.scale, "flip": what.scorer.flip}
    config = opened.config.model_copy(update={"eval": opened.config.eval.model_copy(update=chosen)})
    names = {readout: opened.names(readout) for readout in opened.readouts()}
    classes = [{"name": c.name, "colour": list(c.colour)} for c in opened.classes()]
    meta = {**opened.meta, **({"classes": classes} if classes else {})}
    write_model_file(folder / FILE, config, what.scorer.backbone, opened.segmenter, meta, names)


def _checked(what: Exported, folder: Path, reference: Model, tolerance: float) -> list[Case]:
    """Compare every file with the Python path and print how it went. Raises UserError beyond the tolerance."""
    cases = []
    for file, size in what.files:
        run = _load(what, folder / file)
        cases += compare(reference, run, [size] if size else checked_sizes(what))
    table = Table(title=f"{what.format} against Python")
    for title in ("size", "images", "largest difference of scores", "pixels with another label"):
        table.add_column(title, justify="right")
    for case in cases:
        size_text = f"{case.size[0]}×{case.size[1]}"
        table.add_row(size_text, str(case.batch), f"{case.scores:.2g}", f"{100 * case.differing:.3g} %")
    console.out.print(table)
    check(cases, tolerance)
    return cases


def checked_sizes(what: Exported) -> list[Size]:
    """Three sizes around the scale: its square, one longer on no whole strides, an upright one of half the scale."""
    scale = what.opened.config.eval.resolution if what.scale == "native" else what.scale
    least = what.stride + 1
    sizes = ((scale, scale), (scale, scale * 4 // 3 + 1), (scale * 3 // 4, scale // 2))
    return [(max(least, height), max(least, width)) for height, width in sizes]


def fallback_sizes(what: Exported) -> tuple[Size, ...]:
    """Sizes where any is impossible: a square, and 4:3 lying and upright, of the scale."""
    scale = what.opened.config.eval.resolution if what.scale == "native" else what.scale
    longer = scale * 4 // 3
    return (scale, scale), (scale, longer), (longer, scale)


def _load(what: Exported, path: Path) -> Run:
    if what.format == "torch":
        return formats.run_torch(path)
    if what.format == "onnx":
        return formats.run_onnx(path)
    model = Model.load(
        path, device="cpu", readout=what.readout, scale="native", window=WHOLE, flip=what.scorer.flip,
        overrides=["train.precision=fp32"],
    )  # fmt: skip

    def run(images: torch.Tensor) -> Outputs:
        found = list(model.segment([image.permute(1, 2, 0).numpy() for image in images], batch_size=1))
        labels = torch.stack([torch.from_numpy(one.labels) for one in found])
        return labels, torch.stack([python_scores(one) for one in found])

    return run


def _runtime(kind: Format) -> str:
    return f"onnxruntime {version('onnxruntime')}" if kind == "onnx" else f"torch {torch.__version__}"


def _usage(what: Exported) -> str:
    file = what.files[0][0]
    if what.format == "onnx":
        return "```\npip install onnxruntime numpy pillow\npython example.py IMAGE OUT.png\n```"
    if what.format == "torch":
        return (
            "```python\nimport torch\n\n"
            f'labels, scores = torch.export.load("{file}").module()(images)  # uint8 (B, 3, H, W)\n```\n\n'
            'The program is on the CPU; `torch.export.passes.move_to_device_pass(program, "cuda")` moves it.'
        )
    load = f'Model.load("{file}")("street.jpg").overlay().save("out.png")'
    return f"```python\nfrom stego_dist.inference.model import Model\n\n{load}\n```"
