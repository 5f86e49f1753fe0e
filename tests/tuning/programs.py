"""Kernels that leave much to find, for processes that are interrupted or killed: they begin without a schedule."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import rangekit as rk


@rk.kernel(schedule=())
def product(a: Any, b: Any) -> Any:
    i, k, j = rk.ranges(*a.shape, b.shape[1])
    return rk.bufferize(rk.sum(a[i, k] * b[k, j], k), i, j)


def square(n: int = 96) -> Any:
    return np.arange(n * n, dtype=np.float32).reshape(n, n) / 8


if __name__ == "__main__":
    print("ready", flush=True)
    print(product.tune(square(), square(), seconds=float(sys.argv[1])).tuned)
