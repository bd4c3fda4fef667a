"""The losses, as pure functions: no configuration, no distribution; everything random is passed in."""
