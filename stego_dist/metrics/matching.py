"""Which cluster is which class: Hungarian assignment that maximises the pixels on the diagonal, or by majority."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stego_dist.metrics.confusion import Matrix


@dataclass(frozen=True)
class Matching:
    """Clusters matched to classes."""

    cluster_to_class: tuple[int, ...]
    """For each cluster its class, or −1."""
    matrix: Matrix
    """Counts with row c what is matched to class c; one more row of all unmatched clusters, if any."""


def match_clusters(counts: Matrix) -> Matching:
    """Match clusters (rows of counts (K, C)) to classes one to one; the rest stays unmatched.

    All clusters take part. With more clusters than classes the unmatched clusters' pixels count as wrong: they
    are the extra row of `matrix`. With fewer, classes without a cluster have an empty row.
    """
    from scipy.optimize import linear_sum_assignment  # most of a second, which only those pay who match

    clusters, classes = counts.shape
    rows, columns = linear_sum_assignment(counts, maximize=True)
    mapping = np.full(clusters, -1, dtype=np.int64)
    mapping[rows] = columns
    matrix = np.zeros((classes, classes), dtype=np.int64)
    matrix[columns] = counts[rows]
    rest = counts[mapping < 0]
    if len(rest):
        matrix = np.concatenate([matrix, rest.sum(0, keepdims=True)])
    return Matching(tuple(int(c) for c in mapping), matrix)


def match_published(counts: Matrix) -> Matching:
    """As the published code counts extra clusters: those of index ≥ classes are dropped with their pixels.

    counts: (C + extra, C). The published histogram has one more row and column, which stay empty because the dropped
    predictions never enter it; an empty class is left out of the mean.
    """
    classes = counts.shape[1]
    matched = match_clusters(counts[:classes])
    return Matching(matched.cluster_to_class + (-1,) * (len(counts) - classes), matched.matrix)


def match_majority(counts: Matrix) -> Matching:
    """Match every cluster (rows of counts (K, C)) to the class that it covers most; several may share a class.

    The more clusters, the easier: not comparable with one-to-one matchings. Ties go to the first class; a cluster
    without labelled pixels stays unmatched.
    """
    classes = counts.shape[1]
    mapping = np.where(counts.any(1), counts.argmax(1), -1)
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, mapping[mapping >= 0], counts[mapping >= 0])
    return Matching(tuple(int(c) for c in mapping), matrix)
