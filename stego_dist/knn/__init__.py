"""Neighbours of every crop over the whole training set, and k-means; FAISS or torch behind one interface."""
