"""Every test runs with the spec check on: each node of each state of each pass is legal IR."""

from __future__ import annotations

import os
import tempfile

from hypothesis import settings

from rangekit import cache
from rangekit.ir import spec

spec.CHECK = True

# Nothing that tests keep on disk outlives them or was there before. Now, as some compile when they are collected.
_kept = tempfile.TemporaryDirectory(prefix="rangekit-tests-")
os.environ[cache.FOLDER] = _kept.name

# Times vary on a shared machine and say nothing about correctness; CI repeats the same examples every run.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
