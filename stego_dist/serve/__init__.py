"""A small local page: drop an image on it, see its clusters, name them. Needs the extra `serve`."""
