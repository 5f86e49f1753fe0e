"""A search on a cluster's workers: the same verdicts, and a worker that goes away costs at most a candidate."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rangekit as rk
from rangekit import cache
from rangekit.lower import search
from rangekit.lower.schedule import Schedule
from rangekit.tuning import kept, remote, session
from rangekit.tuning.judge import Terms, TimeUp
from rangekit.tuning.remote import Cluster
from tests.tuning.modules import FAULTS, GOOD, contents, halves, module
from tests.tuning.programs import product, square

distributed = pytest.importorskip("distributed", reason="needs dask.distributed: pip install 'rangekit[cluster]'")

TERMS = Terms(turns=3, most=0.05, patience=0.5)
FEW = Schedule((rk.upcast("i", 4), rk.upcast("j", 16)))


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(processes=True, n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def ready() -> Any:
    """A file with what is right in it, and its task."""
    file, task = contents(halves())
    bench = remote.Bench(file)
    bench.reference(task, GOOD, 5, later())
    bench.stop()
    return file, task


def kill(client: Any, worker: str) -> None:
    """The worker's process; its keeper starts another."""
    os.kill(client.run(os.getpid, workers=[worker])[worker], signal.SIGKILL)


def later() -> float:
    return time.monotonic() + 60


def test_verdicts_come_from_a_worker(client: Any) -> None:
    file, task = ready()
    texts = [module(repeat=2), FAULTS["aborts"][0], FAULTS["is wrong"][0], module(repeat=100)]
    with Cluster(client, file) as cluster:
        assert cluster.width == 1
        verdicts = cluster.judge(task, texts, module(repeat=10), TERMS, later())
        assert [v.reason for v in verdicts] == [None, "crashed", "wrong", None]
        assert verdicts[0].ratio < 1 < verdicts[3].ratio
        with pytest.raises(TimeUp):
            cluster.judge(task, [FAULTS["never ends"][0]], GOOD, Terms(patience=60), time.monotonic() + 1)
        assert cluster.judge(task, [GOOD], GOOD, TERMS, later())[0].reason is None


def test_a_killed_worker_costs_at_most_its_candidate(client: Any) -> None:
    file, task = ready()
    with Cluster(client, file) as cluster:
        submit = cluster._submit
        left = [1]

        def killing(job: Any, data: Any, round_: Any) -> None:
            submit(job, data, round_)
            if data is not None and left.pop() if left else False:
                kill(client, job.worker)

        cluster._submit = killing  # type: ignore[method-assign]
        texts = [FAULTS["never ends"][0], module(repeat=3)]
        verdicts = cluster.judge(task, texts, GOOD, Terms(turns=3, patience=2.0), later())
        assert [v.reason for v in verdicts] == ["endless", None]
        assert left == []


def test_a_candidate_whose_workers_go_away_twice_is_lost(client: Any) -> None:
    file, task = ready()
    with Cluster(client, file) as cluster:
        submit = cluster._submit

        def killing(job: Any, data: Any, round_: Any) -> None:
            submit(job, data, round_)
            if job.text == FAULTS["never ends"][0] and data is not None:
                kill(client, job.worker)

        cluster._submit = killing  # type: ignore[method-assign]
        verdicts = cluster.judge(task, [FAULTS["never ends"][0], GOOD], GOOD, Terms(turns=3, patience=5.0), later())
        assert [v.reason for v in verdicts] == ["lost", None]


def test_workers_of_another_cpu_are_not_used(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file, _ = contents(halves())
    monkeypatch.setattr(remote.engine, "host", lambda: "another")
    with pytest.raises(rk.DeviceError, match="no worker of the cluster has this machine's CPU, another"):
        Cluster(client, file)


def test_a_kernel_is_tuned_on_a_cluster(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.FOLDER, str(tmp_path))
    monkeypatch.setattr(session, "LEAST", 0.0)
    monkeypatch.setattr(search, "proposals", lambda nest, target: [FEW])
    monkeypatch.setattr(search, "neighbours", lambda nest, schedule, target: [])
    x = square()
    tuned = product.tune(x, x, seconds=30, client=client)
    assert tuned.lower(x, x).kernels[0].schedule == FEW
    assert len(kept.entries()) == 1
