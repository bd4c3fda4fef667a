"""Backbone features computed once: descriptors for KNN and, on request, the dense bank that training reads."""
