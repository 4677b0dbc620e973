"""A trace disturbs no other thread: neither one that calls networks nor one that traces as well."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, fx, nn
from typing_extensions import override

from sparring.attacks import PGD, Linf
from sparring.models.networks import SmallCNN
from sparring.models.tracing import traced

IMAGES = torch.rand(6, 1, 8, 8, generator=Generator().manual_seed(0))
LABELS = torch.arange(6) % 3


class Waiting(nn.Module):
    """It calls a function while it is traced."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        self.scale = nn.Parameter(torch.ones(()))
        self.meanwhile = meanwhile

    @override
    def forward(self, images: Tensor) -> Tensor:
        if isinstance(images, fx.Proxy):
            self.meanwhile()
        return self.scale * self.inner(images)


def in_a_thread(call: Callable[[], Tensor]) -> Tensor:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("same", [True, False])
def test_networks_compute_as_always_while_another_thread_traces(same: bool) -> None:
    found: list[Tensor] = []
    network = Waiting(lambda: found.append(in_a_thread(attacked)))
    other = network if same else SmallCNN(1, 3)

    def attacked() -> Tensor:
        return PGD(Linf(0.1), steps=3, start="none")(other, IMAGES, LABELS)

    wanted = attacked()
    trace = traced(network, ())
    assert torch.equal(found[0], wanted)
    assert torch.equal(trace(IMAGES), network(IMAGES))


def test_one_network_is_traced_at_a_time() -> None:
    both, overlapped = threading.Barrier(2), list[bool]()

    def meet() -> None:
        try:
            both.wait(1)
        except threading.BrokenBarrierError:
            return
        overlapped.append(True)

    threads = [threading.Thread(target=traced, args=(Waiting(meet), ())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not overlapped
