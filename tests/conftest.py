"""Every test runs with the spec check on: each node of each state of each pass is legal IR."""

from __future__ import annotations

import os

from hypothesis import settings

from rangekit.ir import spec

spec.CHECK = True

# Times vary on a shared machine and say nothing about correctness; CI repeats the same examples every run.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
