"""What the passes may know of a device: facts in a table, never a measurement, so that every machine of a kind
prints the same nest.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One kind of device. Sizes in bytes; ``byte_cost`` is what moving a byte to memory costs, in operations."""

    name: str
    scratch_bytes: int = 1 << 20  # of local memory one kernel may use: about the caches of one core
    lane_bytes: int = 1 << 18  # of accumulators that one reduction may keep
    memory_bytes: int = 16 << 30
    byte_cost: int = 4


CPU = Target("cpu")
