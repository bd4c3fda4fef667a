"""The program that lies beside an ONNX file: it needs onnxruntime, numpy and Pillow alone."""

from __future__ import annotations

HEAD = '''\
"""Classes of an image: python example.py IMAGE OUT.png (needs onnxruntime, numpy and pillow)."""
import json, sys
from pathlib import Path
import numpy as np, onnxruntime
from PIL import Image, ImageOps
here = Path(__file__).parent
about = json.loads((here / "classes.json").read_text("utf-8"))
image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
'''
SCALED = """\
short, long = min(image.size), max(image.size)
sides = [about["scale"] if side == short else int(about["scale"] * long / short) for side in image.size]
file = about["files"][0]["file"]
"""
NATIVE = """\
sides, file = image.size, about["files"][0]["file"]
"""
FIXED = """\
best = min(about["files"], key=lambda file: abs(file["size"][1] / file["size"][0] - image.width / image.height))
sides, file = best["size"][::-1], best["file"]
"""
TAIL = """\
pixels = np.asarray(image.resize(sides, Image.Resampling[about["resize"].upper()])).transpose(2, 0, 1)[None]
session = onnxruntime.InferenceSession(here / file, providers=["CPUExecutionProvider"])
labels, scores = session.run(["labels", "scores"], {"images": np.ascontiguousarray(pixels)})
colours = np.array([c["colour"] for c in about["classes"]], np.uint8)
Image.fromarray(colours[labels[0]]).resize(image.size, Image.Resampling.NEAREST).save(sys.argv[2])
for c, n in zip(about["classes"], np.bincount(labels.ravel(), minlength=len(colours))):
    print(f"{n / labels.size:6.1%}  {c['name']}")
"""


def example(scale: int | str, fixed: bool) -> str:
    """The program for models that see images at a scale, as they are, or at fixed sizes."""
    return HEAD + (FIXED if fixed else NATIVE if scale == "native" else SCALED) + TAIL
