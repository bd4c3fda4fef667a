"""The typed configuration tree and how it is loaded: YAML, then `section.key=value` overrides."""

from stego_dist.config.load import config_of_tree, dump_config, load_config
from stego_dist.config.loss import LossConfig, PairConfig
from stego_dist.config.presets import PRESETS
from stego_dist.config.train import TrainConfig
from stego_dist.config.tree import (
    BackboneConfig,
    ClustersConfig,
    Config,
    DataConfig,
    EvalConfig,
    FeaturesConfig,
    HeadConfig,
    KnnConfig,
    StorageConfig,
)

__all__ = [
    "PRESETS",
    "BackboneConfig",
    "ClustersConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "FeaturesConfig",
    "HeadConfig",
    "KnnConfig",
    "LossConfig",
    "PairConfig",
    "StorageConfig",
    "TrainConfig",
    "config_of_tree",
    "dump_config",
    "load_config",
]
