"""A trace shows all that a network computes, or is refused; and it disturbs no other thread."""

import operator
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, fx, nn
from torch.nn import functional
from typing_extensions import override

from sparring.attacks import PGD, Linf
from sparring.errors import ConfigError
from sparring.models.networks import SmallCNN
from sparring.models.tracing import check_same, traced

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


@pytest.mark.parametrize("scale", [1e4, 1.0, 1e-4, 1e-12])
def test_a_trace_in_another_precision_is_refused_for_logits_of_any_size(scale: float) -> None:
    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(64, 3)

        @override
        def forward(self, images: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.inner(images.flatten(1))

    network = Rounded()
    for value in network.parameters():
        value.detach().mul_(scale)
    trace = traced(network, ())
    with torch.no_grad():
        with pytest.raises(ConfigError, match="other logits than its trace"):
            check_same(network, trace, [IMAGES])
        for value in network.parameters():
            value.zero_()
        check_same(network, trace, [IMAGES])


class Between(nn.Module):
    """A statement between two layers, whose result is not used."""

    def __init__(self, statement: Callable[[Any], object]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 8), nn.Linear(8, 3)
        self.statement = statement

    @override
    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(images.flatten(1))
        self.statement(hidden)
        return self.last(hidden)


def set_data(hidden: Any) -> None:
    hidden.data = hidden.relu()


def halve(hidden: Any) -> None:
    hidden *= 0.5


def add_to_the_data(hidden: Any) -> None:
    data = hidden.data
    data += 1


def mine(hidden: Tensor) -> Tensor:
    """A function of another module, which a trace does not enter."""
    return hidden.relu_()


WRITES: dict[str, Callable[[Any], object]] = {
    "function": torch.relu_,
    "keyword": lambda hidden: torch.relu_(input=hidden),
    "threshold_": lambda hidden: torch.threshold_(hidden, 0.0, 0.0),
    "out": lambda hidden: torch.clamp(hidden, min=0, out=hidden),
    "several": lambda hidden: torch._foreach_mul_([hidden], 0.5),  # pyright: ignore
    "operator of torch": lambda hidden: torch.ops.aten.relu_(hidden),
    "its overload": lambda hidden: torch.ops.aten.relu_.default(hidden),
    "place": lambda hidden: functional.leaky_relu(hidden, 0.0, True),
    "view": lambda hidden: torch.flatten(input=hidden).relu_(),
    "data": set_data,
    "sum with the data": add_to_the_data,
    "product": halve,
    "operator": lambda hidden: operator.isub(hidden, 1),
}


@pytest.mark.parametrize("kind", WRITES)
def test_a_statement_that_changes_a_hidden_layer_is_refused(kind: str) -> None:
    network = Between(WRITES[kind])
    with pytest.raises(ConfigError, match="bounds and cheaper passes need a network"):
        traced(network, ())


def test_so_is_an_unused_call_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def recorded(hidden: Any) -> Any:
        return hidden.tracer.create_proxy("call_function", mine, (hidden,), {})

    statement = Between(lambda hidden: recorded(hidden) if isinstance(hidden, fx.Proxy) else None)
    with pytest.raises(ConfigError, match="an operation, mine, whose result is not used"):
        traced(statement, ())


def test_so_is_a_buffer_that_is_written_before_it_is_read() -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.zeros(6, 64))

        @override
        def forward(self, images: Tensor) -> Tensor:
            self.get_buffer("kept").copy_(images.flatten(1))
            found = self.get_buffer("kept") * 2
            self.get_buffer("kept").zero_()
            return found

    with pytest.raises(ConfigError, match="what is kept between calls"):
        traced(Kept(), ())


def sizes(hidden: Any) -> None:
    shape = hidden.shape
    rows = shape[0]
    rows *= shape[1]
    rows += shape[0]
    hidden.view(rows - shape[0], -1)


READS: dict[str, Callable[[Any], object]] = {
    "sizes": sizes,
    "assertion": lambda hidden: torch._assert(hidden.size(0) > 0, "no images"),
    "branch": lambda hidden: torch.cat([torch.sigmoid(hidden), hidden.mean(1, keepdim=True)], 1),
    "and": lambda hidden: (hidden > 0) & (hidden < 1),
    "its own sum": lambda hidden: operator.iadd(torch.relu(hidden), 1),
}


@pytest.mark.parametrize("kind", READS)
def test_what_is_not_used_and_changes_nothing_is_left_out(kind: str) -> None:
    network = Between(READS[kind])
    trace = traced(network, ())
    assert torch.equal(trace(IMAGES), network(IMAGES))
    assert [str(node.target) for node in trace.graph.nodes if node.op == "call_module"] == [
        "0.first",
        "0.last",
    ]


def test_a_product_in_place_of_what_is_not_used_again_is_a_product() -> None:
    class Scaled(nn.Module):
        @override
        def forward(self, images: Tensor) -> Tensor:
            hidden = torch.relu(images).flatten(1)
            hidden *= 2
            hidden -= 1
            return hidden

    trace = traced(Scaled(), ())
    kept = IMAGES.clone()
    assert torch.equal(trace(kept), Scaled()(IMAGES.clone()))
    assert torch.equal(kept, IMAGES)
