"""STEGO at any scale: unsupervised semantic segmentation by distilling feature correspondences.

images → shards → crops → backbone features → global KNN → training → checkpoint → evaluation → report.
The folders stand in that order, and imports only ever point back along it.
"""

__version__ = "0.1.0"
