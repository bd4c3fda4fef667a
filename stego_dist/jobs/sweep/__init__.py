"""Sweeps: many short runs over a space of settings, on Ray; the modules stand in the order in which they are used."""
