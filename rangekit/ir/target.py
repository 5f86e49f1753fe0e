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
    vector_bytes: int = 32  # of one register; 0: none, and nests stay as they are
    registers: int = 16  # vector registers
    l1_bytes: int = 32 << 10
    l2_bytes: int = 512 << 10
    l3_bytes: int = 16 << 20
    threads: bool = True  # whether loops may run on several

    @property
    def vector_lanes(self) -> int:
        """float32 elements of a register."""
        return self.vector_bytes // 4


CPU = Target("cpu")
INTERPRETER = Target("python", vector_bytes=0, threads=False)
