"""A trained run on any image: what it sees, at the image's own size, under the names that people gave its clusters."""
