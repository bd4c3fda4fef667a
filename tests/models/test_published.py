"""Published STEGO checkpoints are read as tensors and plain settings; anything else in them is refused by name."""

from __future__ import annotations

import pytest
import torch

from stego_dist.errors import UserError
from stego_dist.models.published import VITS, PublishedStego, read_published
from tests.published_stego import CLASSES, CODE, SETTINGS, Published, write_checkpoint


class Surprise:
    """What a checkpoint must not hold."""


def test_everything_is_found_by_its_published_name(tmp_path):
    module = Published(extra=3)
    found = read_published(write_checkpoint(tmp_path / "stego.ckpt", module))
    assert found.segmenter.shape == {
        "dim": 24, "code_dim": CODE, "projection": "nonlinear", "num_clusters": CLASSES + 3, "num_classes": CLASSES,
        "feature_weight": 0.0,
    }  # fmt: skip
    assert found.step == 6999 and found.unused == []
    assert found.settings == {"n_classes": CLASSES, **SETTINGS}
    assert {key: torch.equal(value, module.net.model.state_dict()[key]) for key, value in found.backbone.items()} == (
        dict.fromkeys(module.net.model.state_dict(), True)
    )
    assert torch.equal(found.segmenter.centres("learned"), module.cluster_probe.clusters)
    assert torch.equal(found.segmenter.centres("kmeans"), module.cluster_probe.clusters)
    assert torch.equal(found.segmenter.linear.conv.weight, module.linear_probe.weight)


def test_a_linear_head_and_a_file_without_settings(tmp_path):
    module = Published(linear=True)
    path = write_checkpoint(tmp_path / "stego.ckpt", module, hyper_parameters={}, extra_state=1)
    found = read_published(path)
    assert found.segmenter.shape["projection"] == "linear" and found.settings == {}


def test_missing_keys_are_named(tmp_path):
    module = Published()
    state = module.state_dict()
    del state["net.cluster2.2.bias"], state["cluster_probe.clusters"]
    path = write_checkpoint(tmp_path / "stego.ckpt", module, state_dict=state)
    with pytest.raises(UserError, match=r"has no net\.cluster2\.2\.bias, cluster_probe\.clusters; found decoder, "):
        read_published(path)
    path = write_checkpoint(tmp_path / "stego.ckpt", module, state_dict=None)
    with pytest.raises(UserError, match="has no state_dict"):
        read_published(path)


def test_shapes_that_disagree_are_named(tmp_path):
    module = Published()
    for change, message in (
        ({"linear_probe.weight": torch.zeros(2, 9, 1, 1)}, r"linear\.conv\.weight is \(2, 9, 1, 1\), expected"),
        ({"cluster_probe.clusters": torch.zeros(3)}, r"cluster_probe\.clusters is \(3,\)"),
    ):
        path = write_checkpoint(tmp_path / "stego.ckpt", module, state_dict={**module.state_dict(), **change})
        with pytest.raises(UserError, match=message):
            read_published(path)


def test_other_pickled_objects_are_refused_by_name(tmp_path):
    path = write_checkpoint(tmp_path / "stego.ckpt", Published(), hyper_parameters={"cfg": Surprise()})
    with pytest.raises(UserError, match=r"import: .* holds a pickled .*test_published\.Surprise.* would run code"):
        read_published(path)
    torch.save(Published(), path)
    with pytest.raises(UserError, match=r"holds a pickled tests\.published_stego\.Published"):
        read_published(path)
    torch.save(Published(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"holds a pickled tests\.published_stego\.Published"):
        read_published(path)


def test_the_published_backbones_are_recognised():
    def found(width: int, patch: int, blocks: int) -> str | None:
        state = {"patch_embed.proj.weight": torch.empty(width, 3, patch, patch, device="meta")}
        state |= {f"blocks.{n}.norm1.bias": torch.empty(width, device="meta") for n in range(blocks)}
        return PublishedStego(state, None, {}, 0, []).backbone_id

    assert {(w, p): found(w, p, 12) for w, p in VITS} == VITS
    assert found(384, 8, 6) is None and found(192, 16, 12) is None
