"""What `stego-dist doctor` finds about Ray: the cluster that RAY_ADDRESS names, and tokens that lie about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from stego_dist.errors import UserError
from stego_dist.jobs.cluster import ray_cluster
from stego_dist.system import Finding


def ray_health() -> Iterator[Finding]:
    """Connects to the cluster when one is named; without, jobs start one of their own."""
    address = os.environ.get("RAY_ADDRESS")
    token = Path.home() / ".ray" / "auth_token"
    if token.exists() and "RAY_AUTH_TOKEN" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        yield Finding(
            "Ray token", "note", f"{token} is used for clusters that RAY_ADDRESS names",
            "export RAY_AUTH_TOKEN with the token of that cluster, or remove the file if it is stale",
        )  # fmt: skip
    if address is None:
        yield Finding("Ray", "ok", "RAY_ADDRESS is not set: jobs start a cluster on this machine and end it again")
        return
    try:
        with ray_cluster() as ray:
            alive = [node for node in ray.nodes() if node["Alive"]]
            have = ray.cluster_resources()
    except (UserError, RuntimeError) as error:
        remedy = "unset RAY_ADDRESS, or start the cluster (launchers/ray/); compare RAY_AUTH_TOKEN and Ray's versions"
        yield Finding("Ray", "wrong", f"{address}: {str(error).strip().splitlines()[0]}", remedy)
        return
    found = f"{len(alive)} node(s), {have.get('CPU', 0):g} CPU(s), {have.get('GPU', 0):g} GPU(s)"
    yield Finding("Ray", "ok", f"{address}: {found}")
