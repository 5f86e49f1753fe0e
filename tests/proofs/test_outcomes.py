"""What becomes of a kernel is the same in every process, whatever the hashes and the load: no time has a say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEDS = ("1", "2", "3")  # at once, so that they are in each other's way


def test_processes_agree() -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.proofs.outcomes"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        for seed in SEEDS
    ]
    one, *rest = (json.loads(process.communicate(timeout=300)[0]) for process in running)
    assert len(one) > 120
    for other in rest:
        assert {name: (one[name], found) for name, found in other.items() if found != one[name]} == {}
