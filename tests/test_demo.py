"""The demonstration's two programs at a second, odd size, each against float64 NumPy, each one kernel."""

from __future__ import annotations

import numpy as np
import pytest

import rangekit as rk
from rangekit.demo import attention_oracle, causal_attention, digits, nearest_label, nearest_oracle
from rangekit.lowered import Lowering


def largest(low: Lowering) -> str:
    return max(low.kernels[0].buffers, key=lambda b: b.size).name


@pytest.mark.parametrize("device", ["cpu", "python"])
def test_every_label_is_that_of_float64(device: str) -> None:
    rows, columns = (97, 211) if device == "cpu" else (3, 5)
    test, train, labels, _ = digits()
    test, train, labels = test[:rows], train[:columns], labels[:columns]
    got = rk.kernel(nearest_label.fn, device=device)(test, train, labels)
    np.testing.assert_array_equal(got, nearest_oracle(test, train, labels))


def test_nearest_neighbour_is_one_kernel_without_a_distance_matrix() -> None:
    test, train, labels, _ = digits()
    low = nearest_label.lower(test[:97], train[:211], labels[:211])
    assert len(low.kernels) == 1
    assert largest(low) == "train"
    assert {b.name for b in low.kernels[0].buffers if b.memory == "global"} == {"test", "train", "labels", "out"}
    assert all(p.status == "proved" for p in low.kernels[0].proofs if p.array in ("test", "train", "out"))


def test_the_nearest_of_several_equal_rows_is_the_first() -> None:
    train = np.zeros((5, 3), np.float32)
    assert nearest_label(train[:2], train, np.array([7, 8, 9, 10, 11])).tolist() == [7, 7]


def test_attention_agrees_with_float64() -> None:
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((2, 3, 37, 19), dtype=np.float32) for _ in range(3))
    np.testing.assert_allclose(causal_attention(q, k, v), attention_oracle(q, k, v), rtol=0, atol=2e-6)


def test_attention_is_one_kernel_without_a_score_matrix() -> None:
    q = np.zeros((2, 3, 37, 19), np.float32)
    low = causal_attention.lower(q, q, q)
    assert len(low.kernels) == 1
    assert largest(low) in {"q", "k", "v", "out"}
    scratch = [b.size for b in low.kernels[0].buffers if b.memory != "global"]
    assert max(scratch) < 37 * 37  # tiles, no scores of all pairs


def test_attention_never_looks_ahead() -> None:
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((1, 1, 5, 3), dtype=np.float32) for _ in range(3))
    before = causal_attention(q, k, v)
    k[:, :, 4], v[:, :, 4] = 100.0, -100.0
    after = causal_attention(q, k, v)
    np.testing.assert_array_equal(after[:, :, :4], before[:, :, :4])
    assert not np.array_equal(after[:, :, 4], before[:, :, 4])


def test_the_oracles_are_independent_of_the_package() -> None:
    q = np.ones((1, 1, 2, 4), np.float32)
    v = np.array([[[[1.0], [3.0]]]], np.float32)
    np.testing.assert_allclose(attention_oracle(q, q, v).ravel(), [1.0, 2.0])
    assert nearest_oracle(np.array([[2.0]]), np.array([[0.0], [3.0]]), np.array([5, 6])).tolist() == [6]
