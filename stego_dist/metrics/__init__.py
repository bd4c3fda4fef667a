"""Scores of predicted maps: confusion matrices, matching of clusters to classes, accuracy and mIoU."""
