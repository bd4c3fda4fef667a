"""Every setting, with its type, its default and what it means. Frozen; unknown keys are refused.

The defaults are the published method on a single group of 16 images, with the loss's coefficients calibrated on the
data instead of tuned. What can be wrong only together is checked in `Config.impossible`, which collects all such errors
into one report.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stego_dist.config.loss import LossConfig
from stego_dist.config.section import Fraction, Positive, Section
from stego_dist.config.train import TrainConfig


class StorageConfig(Section):
    """How shards are read that don't lie in a folder; keys and endpoint of S3 come from the AWS environment alone."""

    tries: Positive = 8
    """Tries of a request before it is given up; the waits between them double up to 30 s (about a minute in all)."""
    timeout_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds without an answer or a byte after which a connection counts as lost."""
    cache_dir: str | None = None
    """Local folder that keeps what was read, for all processes of a machine; none: no cache."""
    cache_gb: Annotated[float, Field(gt=0)] = 50.0
    """What the cache may hold (10⁹ bytes); what was used least recently goes first."""


class DataConfig(Section):
    """Which shards, and at what size images enter the backbone."""

    shards: str
    """A shard set: the folder that holds manifest.json, or the same as http(s)://… or s3://bucket/prefix."""
    storage: StorageConfig = StorageConfig()
    train_split: str = "train"
    """Split that the head is trained on."""
    eval_split: str = "val"
    """Split that is evaluated."""
    resolution: Annotated[int, Field(ge=8)] = 224
    """Training: shorter side and centre crop, in pixels; a multiple of the backbone's patch size."""
    image_resize: Literal["bilinear", "nearest"] = "bilinear"
    """How images are resized: `bilinear` with antialias, or `nearest` as in the published code."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes per rank that read and decode; 0 does it in the training process. No effect on results."""
    shuffle_window: Positive = 4096
    """Compressed images of the global batch's lanes that are held and shuffled together."""


class BackboneConfig(Section):
    """The frozen network."""

    name: str = "vit_small_patch8_224.dino"
    """Any timm model id."""
    weights: str = "timm"
    """`timm` (downloaded or cached by timm's hub), `random`, or a file: official DINO or any state dict."""
    feature: Literal["feat", "keys"] = "feat"
    """ViT: patch tokens after the last norm (`feat`) or keys of the last attention block (`keys`)."""
    pos_interp: Literal["dino", "timm"] = "dino"
    """ViT: how positional embeddings meet another grid: as the published ViT does, or as timm does. Families with
    positions of their own (EVA, DINOv3) are always as in timm."""
    stride: Literal[4, 8, 16, 32] | None = None
    """CNN: stride of the feature map that is taken; none is the last map."""
    options: dict[str, Any] = Field(default_factory=dict)
    """More arguments for timm.create_model, for instance img_size."""


class HeadConfig(Section):
    """The segmentation head."""

    code_dim: Positive = 70
    """Width of the code (published: 70 for ViT-S, 90 for ViT-B)."""
    projection: Literal["nonlinear", "linear", "none"] = "nonlinear"
    """`nonlinear` as published, `linear` without the second branch, `none`: the code is the features."""
    dropout: Fraction = 0.1
    """Probability that a channel is dropped while training (Dropout2d), drawn afresh for each branch."""


class FeaturesConfig(Section):
    """The pass of the frozen backbone over the training shards."""

    dir: str = "features/${name}"
    """Where descriptors, bank and KNN table are written."""
    batch_size: Positive = 16
    """Images of one backbone forward."""
    workers: Positive | None = None
    """Ray workers; none: as many as the GPUs hold, or one a CPU core. A single one on this machine needs no Ray."""
    gpus_per_worker: Annotated[float, Field(gt=0)] = 1.0
    """GPUs of a worker, whole or a fraction (0.5: two workers share one); without GPUs in the cluster it is ignored."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Autocast of the backbone in this pass; on a CPU (ViT-Ti/16, 224 pixels) bf16 was 1.8 times as fast."""
    compile: bool = False
    """torch.compile of the backbone, which takes each worker some seconds; on that CPU it made fp32 1.1 times as fast
    and bf16 0.9 times. No effect on results beyond rounding."""
    descriptors: Literal["float16", "float32"] = "float16"
    """How global descriptors are kept for the neighbour search."""


class KnnConfig(Section):
    """The global neighbour table."""

    k: Positive = 30
    """Entries stored for each crop, itself first."""
    positives: Positive = 7
    """Training draws the neighbour uniformly from ranks 1 to this."""
    exclude_same_image: bool = False
    """Leave out other crops of the same source image (off reproduces the paper)."""
    min_similarity: float | None = None
    """Leave out neighbours whose cosine is below; a crop without any is paired with itself."""
    method: Literal["auto", "exact", "ivf"] = "auto"
    """`exact`; `ivf`: an inverted file, which misses a few; `auto`: exact unless that seems to take over an hour."""
    ivf_code: Literal["flat", "sq8", "pq"] = "flat"
    """How the inverted file keeps descriptors: float32, 8 bits a channel, or product-quantised to D/8 bytes."""
    recall: Annotated[float, Field(gt=0, le=1)] = 0.95
    """ivf: share of the true `positives` nearest that must be found; as many lists are searched as that takes."""
    backend: Literal["auto", "faiss", "torch"] = "auto"
    """Who multiplies: FAISS, or torch; the table is the same."""
    memory_gb: Annotated[float, Field(gt=0)] = 2.0
    """What a worker's search may hold (10⁹ bytes), beside the libraries; the table doesn't change with it."""


class ClustersConfig(Section):
    """The clusters that unsupervised segmentation assigns."""

    count: Positive | None = None
    """Number of clusters; none: the number of classes of the shard set."""
    images: Positive = 2048
    """Training images whose codes enter k-means after training."""
    points: Positive = 400_000
    """Codes drawn from those images."""
    restarts: Positive = 10
    """k-means runs; the one with the best objective is kept."""
    iterations: Positive = 50
    """Lloyd iterations of each run."""
    screen: Positive | None = None
    """Points on which the k-means runs are made and compared; the best goes on over all of them for a fifth of the
    iterations. None: every run takes all points. Trials of sweeps have 10,000 of at most 50,000: on CamVid 0.7 s of
    CPU instead of 10 s, for clusters as good as others of such runs, not the same."""
    feature_weight: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """What the backbone's features count beside codes of length 1; 0: clusters of codes alone, as published. `auto`: 0
    where codes form as many modes as there are clusters, up to 3 where they form fewer (engine/clusters.py)."""
    balance: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = "auto"
    """Points count density to the power of minus this, so that large classes don't take all clusters; 0: all the same.
    `auto`: a third
    of feature_weight, at most 1."""


class EvalConfig(Section):
    """Evaluation."""

    resolution: Annotated[int, Field(ge=8)] = 320
    """Shorter side and, with crop=centre, centre crop, in pixels; the headline numbers."""
    more_resolutions: tuple[Annotated[int, Field(ge=8)], ...] = ()
    """Resolutions that are evaluated besides, each with numbers of its own."""
    crop: Literal["centre", "none"] = "centre"
    """`centre`: the published square; `none`: whole images at their own aspect ratio, every pixel predicted once."""
    batch_size: Positive = 8
    """Images of one forward; no effect on results beyond rounding."""
    flip: bool = True
    """Average the codes of the image and of its mirror image."""
    features: Literal["auto", "online", "bank"] = "auto"
    """Where evaluation and validation have the backbone's features from: `bank`, what was kept when the bank was
    computed; `online`, the backbone, and none are kept; `auto`: the bank where it holds them. Only centre crops are
    kept. Results are equal up to float16."""
    clusters: Literal["kmeans", "learned"] = "kmeans"
    """Which clusters the headline number takes; both are always reported."""
    cluster_seeds: Positive = 1
    """k-means runs over training codes with seeds of their own, whose spread is reported; 1: only the run's."""
    linear: Literal["along", "converged"] = "along"
    """`converged`: besides the linear probe trained along, one trained to convergence on frozen training codes."""
    linear_points: Positive = 400_000
    """Labelled positions that the converged probe is trained on, drawn from at most clusters.images images."""
    crf: Literal["none", "cluster", "both"] = "none"
    """Refine by the dense CRF as well: nothing, the headline clusters, or clusters and linear probe."""
    crf_backend: Literal["auto", "library", "torch"] = "auto"
    """`library` (pydensecrf) or `torch`, which agree to about 1e-5; `auto`: the library on a CPU where it is installed,
    torch elsewhere."""
    crf_workers: Positive | None = None
    """Processes for the CRF per rank, on a CPU; none: one a core."""
    score_images: Annotated[int, Field(ge=2)] = 48
    """Training images, evenly spread, that the label-free score looks at, each in two views."""
    panels: Annotated[int, Field(ge=0)] = 8
    """Pictures written: image, label, clusters in matched colours, linear probe, and what the CRF made of them; spread
    over the split, and with labels a third as many of each of the best, median and worst images."""
    correspondences: Annotated[int, Field(ge=0)] = 32
    """Images whose correspondences are measured for the report, of evaluation and of training; 0: none."""


class Config(Section):
    """A whole run."""

    name: str
    """Name of the run."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Everything random is a function of it and of the step."""
    run_dir: str = "runs/${name}"
    """Where the run is recorded."""
    data: DataConfig
    backbone: BackboneConfig = BackboneConfig()
    head: HeadConfig = HeadConfig()
    loss: LossConfig = LossConfig()
    features: FeaturesConfig = FeaturesConfig()
    knn: KnnConfig = KnnConfig()
    train: TrainConfig = TrainConfig()
    clusters: ClustersConfig = ClustersConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _possible(self) -> Config:
        problems = self.impossible()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def groups(self) -> int:
        """Groups of the global batch."""
        return self.train.batch_size // self.loss.group_size

    def impossible(self) -> list[str]:
        """What contradicts itself, a sentence each."""
        problems = []
        if self.train.batch_size % self.loss.group_size:
            problems.append(
                f"train.batch_size: {self.train.batch_size} is not a multiple of loss.group_size "
                f"({self.loss.group_size}); take {self.loss.group_size * max(1, self.groups)} or another multiple."
            )
        elif self.groups % self.train.accumulate:
            fitting = " or ".join(str(n) for n in range(1, self.groups + 1) if self.groups % n == 0)
            problems.append(
                f"train.accumulate: {self.groups} group(s) can't be cut into {self.train.accumulate} equal parts; "
                f"with train.batch_size={self.train.batch_size} and loss.group_size={self.loss.group_size} "
                f"take {fitting}."
            )
        if self.train.select != "last" and self.train.validate_every == 0:
            problems.append(
                f"train.select: {self.train.select} chooses by validation, which train.validate_every=0 turns off; "
                "set it to a number of steps, or train.select=last."
            )
        if self.knn.positives >= self.knn.k:
            problems.append(
                f"knn.positives: ranks 1 to {self.knn.positives} are wanted, but knn.k={self.knn.k} stores ranks "
                f"0 to {self.knn.k - 1}; raise knn.k to at least {self.knn.positives + 1}."
            )
        if self.loss.contrastive_crf_weight > 0 and self.train.features == "bank":
            problems.append(
                "loss.contrastive_crf_weight: the contrastive CRF term needs the images, which the bank does not "
                "hold; set train.features=online or the weight to 0."
            )
        if self.eval.features == "bank" and self.eval.crop == "none":
            problems.append(
                "eval.features: whole images (eval.crop=none) have sizes of their own and are not in the bank; set "
                "eval.features=auto or eval.crop=centre."
            )
        if (self.train.linear_points or 0) > self.data.resolution:
            problems.append(
                f"train.linear_points: {self.train.linear_points} rows and columns are more than the "
                f"{self.data.resolution} that a training image has; leave it out to take every pixel."
            )
        if not any(pair.weight for pair in self.loss.pairs.values()):
            problems.append("loss: all three weights are 0, so nothing would be trained; set at least one above 0.")
        return problems
