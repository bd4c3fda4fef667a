"""The networks: a frozen backbone, the head that is trained, and the two probes."""
