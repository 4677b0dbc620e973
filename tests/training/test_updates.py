"""What one update minimises and how it moves the weights, against closed forms."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.attacks import AttackedBatch
from sparring.data import Dataset, ImageSet, load_dataset
from sparring.errors import ConfigError, NonFiniteLoss
from sparring.models import SmallNetwork
from sparring.training import SGD, TRADES, Adam, Adversarial, Mixed, Natural, Trainer
from sparring.training.gradient_share import GradientShare, Packing
from sparring.training.team import SingleProcess
from sparring.training.trainer import FORGET_EVERY, Average, update_together
from training.small_runs import assert_same_bits, small, weights_of


def batch_of(images: Tensor, adversarial: Tensor, labels: list[int]) -> AttackedBatch:
    return AttackedBatch(
        number=0,
        images=images,
        adversarial=adversarial,
        labels=torch.tensor(labels),
        indices=torch.arange(len(labels)),
        version=0,
        eps=0.1,
        attack_seconds=0.0,
    )


def two_logits(images: Tensor) -> Tensor:
    """A pixel against zero: the cross-entropy of class 1 is log(1 + exp(-pixel))."""
    pixel = images.flatten(1)[:, :1]
    return torch.cat([torch.zeros_like(pixel), pixel], 1)


CLEAN = torch.tensor([0.75, 0.25]).view(2, 1, 1, 1)
ATTACKED = torch.tensor([0.5, 0.0]).view(2, 1, 1, 1)
LABELS = [1, 0]
ON_CLEAN = (math.log1p(math.exp(-0.75)) + math.log1p(math.exp(0.25))) / 2
ON_ATTACKED = (math.log1p(math.exp(-0.5)) + math.log(2)) / 2


def odds_divergence(clean: float, attacked: float) -> float:
    """Of two logits 0 and z: the clean answer's, from the attacked one's."""
    p, q = (1 / (1 + math.exp(-z)) for z in (clean, attacked))
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


MOVED = (odds_divergence(0.75, 0.5) + odds_divergence(0.25, 0.0)) / 2


@pytest.mark.parametrize(
    ("objective", "value", "correct"),
    [
        (Natural(), ON_CLEAN, [True, False]),
        (Adversarial(), ON_ATTACKED, [True, True]),
        (Mixed(natural_weight=0.25), 0.25 * ON_CLEAN + 0.75 * ON_ATTACKED, [True, True]),
        (TRADES(beta=2.0), ON_CLEAN + 2 * MOVED, [True, True]),
    ],
)
def test_objectives_are_mean_cross_entropies(
    objective: Natural | Adversarial | Mixed | TRADES, value: float, correct: list[bool]
) -> None:
    loss = objective(two_logits, batch_of(CLEAN, ATTACKED, LABELS))
    assert loss.value.item() == pytest.approx(value, rel=1e-6)
    assert loss.correct.tolist() == correct


def test_the_average_is_the_weighted_sum_that_its_decay_says() -> None:
    network = nn.Linear(1, 1, bias=False)
    network.register_buffer("count", torch.zeros((), dtype=torch.int64))
    network.register_buffer("statistic", torch.full((), 5.0))
    with torch.no_grad():
        network.weight.fill_(5.0)
    average, expected = Average(network, decay=0.5), 5.0
    for version, weight in enumerate([1.0, -2.0, 7.0, 7.5], start=1):
        with torch.no_grad():
            network.weight.fill_(weight)
            network.get_buffer("count").fill_(version)
            network.get_buffer("statistic").fill_(weight)
        average.update(network, version)
        decay = min(0.5, (1 + version) / (10 + version))
        expected = decay * expected + (1 - decay) * weight
        assert average.network.get_parameter("weight").item() == pytest.approx(expected)
        assert average.network.get_buffer("statistic").item() == pytest.approx(expected)
        assert average.network.get_buffer("count").item() == version


def test_a_decay_of_zero_keeps_the_current_weights_exactly() -> None:
    network = nn.Linear(7, 3)
    average = Average(network, decay=0.0)
    with torch.no_grad():
        network.weight.mul_(1.1).add_(0.3)
    average.update(network, 1)
    assert torch.equal(average.network.get_parameter("weight"), network.weight)


@pytest.mark.parametrize("decay", [0.0, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_what_is_not_finite_is_averaged_as_it_is(decay: float, dtype: torch.dtype) -> None:
    network = nn.Linear(2, 1)
    before = torch.tensor([1, -torch.inf, torch.nan, 2, torch.inf]).to(dtype)
    after = torch.tensor([3, -torch.inf, torch.nan, torch.inf, 4]).to(dtype)
    network.register_buffer("buffer", before.clone())
    network.register_parameter("frozen", nn.Parameter(before.clone(), requires_grad=False))
    average = Average(network, decay)
    for value in (network.get_buffer("buffer"), network.get_parameter("frozen")):
        value.copy_(after)
    average.update(network, 100)
    wanted = after.clone()
    wanted[0] = decay * before[0] + (1 - decay) * after[0]
    averaged = average.network
    for found in (averaged.get_buffer("buffer"), averaged.get_parameter("frozen")):
        torch.testing.assert_close(found.detach(), wanted, equal_nan=True)


def test_the_average_of_complex_weights_is_the_one_of_both_parts() -> None:
    network = nn.Module()
    network.weight = nn.Parameter(torch.tensor([1 + 4j, -2j]))
    average = Average(network, 0.5)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([3 + 0j, 1 + 2j]))
    average.update(network, 100)
    assert average.network.get_parameter("weight").tolist() == [2 + 2j, 0.5 + 0j]


TYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.complex64])
SIZES = st.sampled_from([(), (0,), (3,), (2, 3), (2, 0, 1)])


@given(st.lists(st.tuples(TYPES, SIZES, st.booleans()), min_size=1, max_size=4), st.integers(0, 1))
def test_a_share_of_any_numbers_comes_back_from_its_flat_form(kinds, rank) -> None:
    network = nn.Module()
    for place, (dtype, sizes, is_buffer) in enumerate(kinds):
        value = torch.randn(sizes, dtype=dtype)
        if is_buffer and place:
            network.register_buffer(f"b{place}", value)
        else:
            network.register_parameter(f"w{place}", nn.Parameter(value))
    packing = Packing(network, trainer=rank, trainers=2)
    share = GradientShare(
        gradients=tuple(torch.randn_like(each) for each in network.parameters()),
        statistics=tuple(torch.randn_like(each) for each in network.buffers()),
        changed=tuple(bool(place % 2) for place, _ in enumerate(network.buffers())),
        loss=0.5,
        accuracy=0.25,
        staleness=(6,),
    )
    back = packing.unpack(packing.pack(share))
    pairs = [*zip(share.gradients, back.gradients, strict=True)]
    pairs += zip(share.statistics, back.statistics, strict=True)
    for sent, found in pairs:
        assert sent is not None
        assert found is not None
        assert found.dtype == sent.dtype
        assert torch.equal(found, sent)
    assert back.changed == share.changed
    assert (back.loss, back.accuracy) == (0.5, 0.25)


class Largest(nn.Module):
    """Keeps the largest activation that it has seen in training, and a number that never moves."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10, 784))
        self.register_buffer("largest", torch.tensor(0.0))
        self.register_buffer("third", torch.tensor(1 / 3))
        self.largest: Tensor
        self.third: Tensor

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.largest.copy_(torch.maximum(self.largest, images.detach().max()))
        return images.flatten(1) @ self.weight.t() * self.third


def test_a_buffer_becomes_the_mean_of_the_trainers_though_only_some_passes_change_it() -> None:
    dataset, cpu = load_dataset("mnist"), torch.device("cpu")
    config = small(trainers=3, batch_size=12)
    teams = [SingleProcess(rank=rank, size=3) for rank in range(3)]
    trainers = [Trainer(config, dataset, cpu, Largest(), team) for team in teams]
    for values, mean in (((0.25, 0.5, 0.75), 0.5), ((0.25, 0.5, 1.0), 2 / 3), ((0.0,) * 3, 2 / 3)):
        ticket = [trainer.loader.begin(0) for trainer in trainers]
        parts = [
            replace(part, adversarial=torch.full_like(part.adversarial, value))
            for part, value in zip(ticket, values, strict=True)
        ]
        update_together(trainers, parts)
        for trainer in trainers:
            found = dict(trainer.network.named_buffers())
            assert found["largest"].item() == pytest.approx(mean)
            assert torch.equal(found["third"], torch.tensor(1 / 3))


@pytest.fixture(scope="module")
def few() -> Dataset:
    whole = load_dataset("mnist")
    assert isinstance(whole.train, ImageSet)
    part = whole.train.subset(0, 64)
    return Dataset(name="few", train=part, validation=part, test=part)


def trainer_of(few: Dataset, **changes: object) -> Trainer:
    return Trainer(small(**changes), few, torch.device("cpu"))


def test_plain_sgd_moves_every_weight_by_rate_times_gradient(few: Dataset) -> None:
    trainer = trainer_of(few, optimizer=SGD(learning_rate=0.1, momentum=0.0))
    batch = trainer.loader.begin(0)
    before = copy.deepcopy(trainer.network)
    loss = nn.functional.cross_entropy(before(batch.adversarial), batch.labels)
    gradients = torch.autograd.grad(loss, list(before.parameters()))
    step = trainer.update(batch)
    assert step.loss == pytest.approx(loss.item(), rel=1e-5)
    for old, gradient, new in zip(
        before.parameters(), gradients, trainer.network.parameters(), strict=True
    ):
        torch.testing.assert_close(new, old - 0.1 * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", [SGD(learning_rate=0.1, momentum=0.9), Adam()])
def test_a_gradient_moves_its_own_weights_wherever_it_lies_in_memory(
    few: Dataset, precision: str, optimizer: SGD | Adam
) -> None:
    trainer = trainer_of(
        few,
        model=SmallNetwork(channels=1, num_classes=10, width=2),
        precision=precision,
        optimizer=optimizer,
    )
    expected = [nn.Parameter(each.detach().clone()) for each in trainer.network.parameters()]
    reference = optimizer.build(expected)
    (group,) = reference.param_groups
    group["fused"] = False  # the kernels that go by strides
    for number in range(2):
        batch = trainer.loader.begin(number)
        share = trainer.measure(batch)
        for weights, gradient in zip(expected, share.gradients, strict=True):
            weights.grad = gradient
        turned = replace(share, gradients=tuple(map(_channels_last, share.gradients)))
        group["lr"] = trainer.take(turned, batch).learning_rate
        reference.step()
        for weights, found in zip(expected, trainer.network.parameters(), strict=True):
            torch.testing.assert_close(found, weights, rtol=1e-4, atol=1e-6)


def _channels_last(gradient: Tensor | None) -> Tensor | None:
    if gradient is None or gradient.dim() != 4:
        return gradient
    return gradient.contiguous(memory_format=torch.channels_last)


def test_clipping_bounds_the_length_of_an_update(few: Dataset) -> None:
    trainer = trainer_of(few, optimizer=SGD(learning_rate=1.0, momentum=0.0), clip_norm=0.01)
    before = weights_of(trainer.network)
    trainer.update(trainer.loader.begin(0))
    after = weights_of(trainer.network)
    moved = math.sqrt(sum(float((after[name] - before[name]).square().sum()) for name in before))
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_moments_too_small_to_move_a_weight_are_forgotten(few: Dataset) -> None:
    trainer = trainer_of(few, updates=FORGET_EVERY)
    batch = trainer.loader.begin(0)
    trainer.update(batch)
    moments = trainer.optimizer.state[trainer.network.get_parameter("fc1.weight")]
    with torch.no_grad():
        moments["exp_avg"][0] = 1e-39
        moments["exp_avg_sq"][0] = 1e-39
        kept = moments["exp_avg"][1:].abs().max().item()
    trainer.loader.restore({}, FORGET_EVERY - 1)
    trainer.network.get_parameter("fc1.bias").data[0] = -1e6  # its unit is dead: no gradient
    trainer.update(next(trainer.loader))
    assert not moments["exp_avg"][0].any()
    assert not moments["exp_avg_sq"][0].any()
    assert moments["exp_avg"][1:].abs().max().item() > 0.1 * kept > 0


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(few: Dataset) -> None:
    trainer = trainer_of(few, optimizer=Adam(learning_rate=0.25))
    batch = trainer.loader.begin(0)
    with torch.no_grad():
        trainer.network.get_parameter("fc2.weight").fill_(math.inf)
    trainer.copy.refresh()
    before = weights_of(trainer.network)
    with pytest.raises(NonFiniteLoss, match=r"step 1 with learning rate 0.25 and staleness 0"):
        trainer.update(batch)
    after = weights_of(trainer.network)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert trainer.version == 0


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
def test_neither_does_a_gradient_that_is_not_finite(few: Dataset, wrong: float) -> None:
    trainer = trainer_of(few)
    batch = trainer.loader.begin(0)
    before = {name: value.clone() for name, value in weights_of(trainer.network).items()}
    share = trainer.measure(batch)
    last = share.gradients[-1]
    assert last is not None
    last.view(-1)[-1] = wrong
    with pytest.raises(NonFiniteLoss, match="infinite or NaN gradient"):
        trainer.take(share, batch)
    assert_same_bits(weights_of(trainer.network), before)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Adam, {"learning_rate": 0.0}, "learning_rate must be finite and above 0.*got 0"),
        (Adam, {"learning_rate": math.nan}, "learning_rate must be finite and above 0.*got nan"),
        (Adam, {"beta2": 1.0}, r"beta2 must lie in \[0, 1\).*got 1"),
        (SGD, {"weight_decay": -1e-4}, "weight_decay must lie in .0, inf.; got -0.0001"),
        (SGD, {"weight_decay": math.nan}, "weight_decay must lie in .0, inf.; got nan"),
        (SGD, {"weight_decay": math.inf}, "weight_decay must lie in .0, inf.; got inf"),
        (TRADES, {"beta": 0.0}, r"beta must be finite and above 0.*got 0"),
        (Mixed, {"natural_weight": 1.0}, r"natural_weight must lie in \(0, 1\).*got 1"),
    ],
)
def test_settings_outside_their_range_are_refused(
    kind: type, settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**settings)
