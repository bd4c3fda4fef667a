"""The formats: how each is traced, written, and run again from its file to be checked.

torch: a program of torch.export (.pt2). onnx: a graph that onnxruntime and others run. safetensors: tensors and
settings, which `inference.Model` loads (inference/modelfile.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from stego_dist.errors import UserError
from stego_dist.export.module import INPUT, OUTPUTS, Portable

Format = Literal["torch", "onnx", "safetensors"]
Size = tuple[int, int]
Outputs = tuple[Tensor, Tensor]
"""Labels (B, H, W) and scores (B, K, h, w) of images."""
Run = Callable[[Tensor], Outputs]
SUFFIX = {"torch": ".pt2", "onnx": ".onnx"}
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ABOUT = "stego_dist.json"
"""Extra file inside a .pt2: the content of classes.json."""
PATIENCE_S = 300.0
"""Seconds after which tracing for any size is given up: some networks' conditions on sizes are never solved."""
AGAIN_S = 1.0
"""After which that is said again: tracing passes over some errors."""
LARGEST_PROTOBUF = 2_000_000_000
"""Bytes of weights from which they lie beside the graph, in model.onnx.data."""


def check_packages() -> None:
    """Raise UserError unless what ONNX takes is installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'ONNX takes {", ".join(missing)}, not installed here. Run: pip install "stego-dist[export]"')


class NotDynamic(Exception):
    """The network fixes the size of images when it is traced."""


def trace(module: Portable, size: Size | None) -> ExportedProgram:
    """The program of a module, for any batch and images of any size, or of one size.

    Raises NotDynamic where the network can't be traced for any size.
    """
    least = module.stride + 1
    # an example that is neither square nor of whole strides, so that nothing special to such sizes is traced
    height, width = size or (9 * module.stride - module.stride // 2, 13 * module.stride - module.stride // 3)
    example = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    dims = {0: Dim("batch", min=1)}
    if size is None:
        dims |= {2: Dim("height", min=least), 3: Dim("width", min=least)}
    try:
        with _quiet(), _at_most(PATIENCE_S if size is None else 0), torch.no_grad():
            program = torch.export.export(
                module, (example,), dynamic_shapes=(dims,), prefer_deferred_runtime_asserts_over_guards=True
            )
    except Exception as error:  # whatever a network's own code raises when sizes are symbols
        if size is None:
            raise NotDynamic(_first_line(error)) from error
        raise UserError(f"the network can't be traced at {height}×{width} pixels: {_first_line(error)}") from error
    for node in program.graph.nodes:  # source files of the machine that exports are nobody's business
        node.meta.pop("stack_trace", None)
    return program


def write_torch(program: ExportedProgram, path: Path, about: Mapping[str, Any]) -> None:
    """A .pt2 file, with `about` in it."""
    with _quiet():
        torch.export.save(program, path, extra_files={ABOUT: json.dumps(about, ensure_ascii=False)})


def write_onnx(program: ExportedProgram, path: Path, about: Mapping[str, Any], dynamic: bool) -> None:
    """A .onnx file, with the entries of `about` in its metadata. Raises UserError: an operation without translation."""
    names = {0: "batch", **({2: "height", 3: "width"} if dynamic else {})}
    try:
        with _quiet():
            found = torch.onnx.export(
                program, (), dynamo=True, verbose=False, input_names=[INPUT], output_names=list(OUTPUTS),
                dynamic_shapes=(names,),
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(
            f"ONNX has no translation of this network: {_first_line(error)}. Take --format torch or safetensors"
        ) from error
    assert found is not None
    for key, value in about.items():
        found.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    weights = sum(value.nbytes for value in program.state_dict.values())
    found.save(path, external_data=weights > LARGEST_PROTOBUF)


def run_torch(path: Path) -> Run:
    """What a .pt2 file does, on the CPU."""
    with _quiet():
        module = torch.export.load(path).module()

    def run(images: Tensor) -> Outputs:
        with torch.no_grad():
            labels, scores = module(images)
        return labels, scores

    return run


def run_onnx(path: Path) -> Run:
    """What onnxruntime makes of a .onnx file, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Outputs:
        labels, scores = session.run(list(OUTPUTS), {INPUT: images.numpy()})
        return torch.from_numpy(labels), torch.from_numpy(scores)

    return run


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what takes longer, on the main thread; 0: no limit."""
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters say to their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
