"""Workers on a Ray cluster of two nodes, with a node that goes and one that comes."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.small_job import (
    IMAGES,
    Home,
    expected_batch,
    lease,
    network,
    small_arena,
    small_job,
    until,
)
from sparring.engine import Broker, Engine, FixedLag, Policy, Sync
from sparring.engine.attacker import AttackJob, publish
from sparring.engine.memory import Arena
from sparring.engine.transports import Died, Done, Event, Up
from sparring.engine.transports.kinds import Ray
from sparring.errors import ConfigError
from sparring.records import MetricsLog
from sparring.training import Asynchronous, resume, train
from training.small_runs import assert_same_bits, small, weights_of

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
cluster_utils = pytest.importorskip("ray.cluster_utils")
from sparring.engine.transports.ray_actors import RayTransport  # noqa: E402 - after the question
from sparring.engine.transports.ray_cluster import Connection  # noqa: E402

pytestmark = [pytest.mark.process, pytest.mark.filterwarnings("ignore::FutureWarning")]
TESTS = str(Path(__file__).parents[1])
"""Nodes find the modules of tests here."""
MEMORY = 100 * 2**20
"""Bytes of a node's object store: more than the least that Ray takes."""


@pytest.fixture(scope="module")
def settings() -> Iterator[dict[str, str]]:
    """Of the environment: what Ray writes goes to a folder that goes again, and nobody is told."""
    # The path of a socket may have no more than a hundred characters.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        yield {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": folder,
            "HOME": folder,
            "PYTHONPATH": TESTS,
        }


@pytest.fixture(scope="module")
def cluster(settings: dict[str, str]) -> Iterator[Any]:
    """A head without room for workers, and a node with room for two."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        (Path(settings["RAY_TMPDIR"]) / "ray").mkdir(exist_ok=True)
        made = cluster_utils.Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": MEMORY,
                "include_dashboard": False,
            },
        )
        made.add_node(num_cpus=2, object_store_memory=MEMORY)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        connection = Connection(made.address)
        assert handlers == {number: signal.getsignal(number) for number in handlers}
        yield made
        connection.close()
        assert not ray.is_initialized()
        made.shutdown()


def opened(job: AttackJob, arena: Arena) -> RayTransport:
    transport = Ray().open(job, arena, IMAGES, ["cpu"], 1)
    assert isinstance(transport, RayTransport)
    return transport


@contextmanager
def workplace(policy: Policy, job: AttackJob) -> Iterator[tuple[Arena, RayTransport]]:
    arena = small_arena(policy, job)
    transport = opened(job, arena)
    try:
        yield arena, transport
    finally:
        transport.stop()
        arena.close()


def test_a_worker_attacks_with_the_published_weights_as_anyone_would(cluster):
    with workplace(FixedLag(lag=1), small_job()) as (arena, transport):
        worker = transport.start()
        for version, seed in ((0, 7), (1, 8)):  # the same buffer with other weights
            weights = network(seed)
            publish(weights, arena, 0)
            asked = lease(worker, 3, number=11 + version, slot=1, version=version)
            transport.submit(asked)
            event = until(transport, Done)
            assert (event.worker, event.lease) == (worker, 11 + version)
            assert 0 < event.work.attack < 60
            expected = expected_batch(3, weights, version)
            assert torch.equal(arena["attacked 1"], expected.adversarial)
            assert not arena["attacked 0"].any()


def test_what_goes_wrong_in_a_worker_is_its_death_and_touches_no_slot(cluster):
    with workplace(FixedLag(lag=1), small_job(raises_at=0, hangs_at=1)) as (arena, transport):
        worker = transport.start()
        transport.submit(lease(worker, 0))
        event = until(transport, Died)
        assert event.worker == worker
        assert "ArithmeticError: ticket 0 cannot be attacked" in event.reason
        hanging = transport.start()
        until(transport, Up)
        transport.submit(lease(hanging, 1, number=2))
        transport.submit(lease(hanging, 2, number=3))
        transport.kill(hanging)
        assert until(transport, Died).worker == hanging
        transport.submit(lease(hanging, 3, number=4))
        assert transport.poll(0.5) == []
        assert not any(arena[f"attacked {slot}"].any() for slot in range(2))
        assert not transport.actors


@pytest.mark.slow
def test_an_object_store_without_room_is_a_workers_death_or_a_mistake_in_the_settings(
    cluster, monkeypatch
):
    def full(thing: object) -> object:
        raise ray.exceptions.ObjectStoreFullError("no room")

    with workplace(FixedLag(lag=1), small_job()) as (_, transport):
        worker = transport.start()
        monkeypatch.setattr(ray, "put", full)
        transport.submit(lease(worker, 0))
        (event,) = transport.poll(10.0)
        assert isinstance(event, Died)
        assert event.worker == worker
        assert event.reason.startswith("ObjectStoreFullError")
        with pytest.raises(ConfigError, match=r"their 0 MB did not \(ObjectStoreFullError\)"):
            opened(small_job(), transport._arena)


def run(cluster: Any, workers: int) -> tuple[dict[str, torch.Tensor], Broker, list[Event]]:
    """Sixty tickets; with workers, one node goes after twenty and another comes after forty."""
    policy, job = FixedLag(lag=6, period=2), small_job()
    with workplace(policy, job) as (arena, transport):
        told = list[Event]()
        heard = transport.poll
        transport.poll = lambda timeout: (told.extend(new := heard(timeout)), new)[1]  # type: ignore
        broker, home = Broker(policy, tickets=60), Home(arena, job)
        engine = Engine(broker, transport, home, workers=workers, helps=not workers)
        for ready in engine:
            home.update(arena[f"attacked {ready.slot}"])
            if workers and ready.ticket == 20:
                cluster.remove_node(sorted(cluster.worker_nodes, key=str)[0])
                cluster.add_node(num_cpus=2, object_store_memory=MEMORY)
        engine.close()
        return {n: v.clone() for n, v in home.network.state_dict().items()}, broker, told


@pytest.mark.slow
def test_nodes_that_go_and_come_change_no_bit_of_the_weights(cluster):
    """All workers die with the only node that has room; others wait for the new one."""
    alone, _, _ = run(cluster, 0)
    weights, broker, told = run(cluster, 3)  # one more than there is room for
    assert_same_bits(weights, alone)
    ledger = broker.ledger
    assert (ledger.trained, len(broker.out)) == (60, 0)
    assert ledger.leased == ledger.done + ledger.lost
    assert ledger.done == 60 * broker.parts
    deaths = [event for event in told if isinstance(event, Died)]
    assert len(deaths) == ledger.deaths >= 1
    assert any("node was terminated" in death.reason for death in deaths)
    assert ledger.lost
    up = {event.worker for event in told if isinstance(event, Up)}
    assert up - {death.worker for death in deaths}  # on the new node: there was no other


def test_a_run_on_a_cluster_with_a_stop_is_the_run_alone_bit_for_bit(cluster, tmp_path):
    """As a run on processes is: tests/training/test_asynchronous.py."""
    source = Asynchronous(workers=0, policy=FixedLag(lag=3), fresh_steps=1)
    expected = weights_of(train(small(source=source), tmp_path / "alone").network)
    config = small(source=replace(source, workers=2, transport=Ray(), helps=False))
    train(config, tmp_path / "ray", until=5)
    done = resume(tmp_path / "ray")
    assert_same_bits(weights_of(done.network), expected)
    rows = [row for row in MetricsLog(done.run.metrics).rows() if "worker" in row]
    assert len(rows) == 8
    assert not any("trainer" in str(row["worker"]) for row in rows)
    assert ray.is_initialized()


def test_no_cluster_and_no_version_in_common_are_told(cluster):
    with workplace(Sync(), small_job()) as (_, transport):
        transport._setup = replace(transport._setup, version="0.0.0")
        transport.start()
        assert "must run the trainer's version of sparring" in until(transport, Died).reason


@pytest.mark.slow
def test_a_cluster_that_a_run_starts_ends_with_it_and_leaves_signals_alone(settings, tmp_path):
    """In a process of its own: this one is connected elsewhere."""
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from sparring.engine import Sync
        from sparring.engine.transports.kinds import Ray
        from sparring.records import MetricsLog
        from sparring.training import Asynchronous, train
        from training.small_runs import small
        handler = lambda *_: None
        signal.signal(signal.SIGTERM, handler)
        source = Asynchronous(workers=1, transport=Ray(), policy=Sync(), helps=False)
        run = train(small(source=source, updates=2), sys.argv[1])
        assert signal.getsignal(signal.SIGTERM) is handler
        assert {row["worker"] for row in MetricsLog(run.run.metrics).rows() if "worker" in row}
        import ray
        assert not ray.is_initialized()
    """)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run")],
        env=environment | settings,
        check=True,
        timeout=500,
    )


def test_an_address_where_no_cluster_answers_is_refused():
    script = (
        "from sparring.engine.transports.ray_cluster import Connection; Connection('127.0.0.1:9')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=500, check=False
    )
    assert f"{ConfigError.__module__}.ConfigError: no Ray cluster answers at" in done.stderr
    assert "'127.0.0.1:9' (" in done.stderr
