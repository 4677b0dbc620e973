"""Each way in which what is trained and what is judged part, made on purpose, and its name."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from sparring.attacks import PGD, AttackedBatch, Linf
from sparring.data import Dataset, ImageSet, load_dataset
from sparring.training import TrainConfig, Validation
from sparring.training.comparison import Comparer, Comparison
from sparring.training.monitor import WAYS, OverfittingAlarm
from sparring.training.trainer import Trainer
from training.small_runs import assert_same_bits, small, weights_of

CPU = torch.device("cpu")
WEAK = PGD(threat=Linf(eps=0.02), steps=1, start="none")
BLIND = PGD(threat=Linf(eps=0.3), steps=1, step_size=1e-4, start="none")


class Templates(nn.Module):
    """The class whose mean training image is nearest."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        images, labels = dataset.train.batch(torch.arange(2000))
        means = torch.stack([images[labels == label].mean(0) for label in range(10)]).flatten(1)
        self.weight, self.bias = nn.Parameter(means), nn.Parameter(-means.square().sum(1) / 2)

    def forward(self, images: Tensor) -> Tensor:
        return linear(images.flatten(1), self.weight, self.bias)


class OnlyAttacked(nn.Module):
    """Right where a pixel is no grey level, as after an attack."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        levels = images * 255
        attacked = ((levels - levels.round()).abs() > 1e-3).flatten(1).any(1, keepdim=True)
        return torch.where(attacked, self.network(images), -self.network(images))


class OnlyRounded(nn.Module):
    """Right in bf16 and wrong in single precision."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return logits if images.dtype is torch.bfloat16 else -logits


class StaleStatistics(nn.Module):
    """BatchNorm whose running mean is far from every batch's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.norm = network, nn.BatchNorm2d(1)
        nn.init.constant_(self.norm.weight, 0.31)
        nn.init.constant_(self.norm.bias, 0.13)
        nn.init.constant_(self.norm.get_buffer("running_mean"), 5.0)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.norm(images))


class Restless(nn.Module):
    """Draws at random and changes its buffers in training mode, in place and by assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.fc = nn.BatchNorm2d(1), nn.Dropout(0.3), nn.Linear(784, 10)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * images.mean()
        return self.fc(self.drop(self.norm(images)).flatten(1)) + self.mean


@dataclass
class Case:
    config: TrainConfig
    network: nn.Module
    dataset: Dataset
    spoil: Callable[[Trainer], None] = lambda trainer: None
    batch: Callable[[AttackedBatch], AttackedBatch] = lambda batch: batch


def shuffled(dataset: Dataset) -> Dataset:
    """Every validation label is another class."""
    kept = dataset.validation
    images, labels = kept.batch(torch.arange(64))
    wrong = ImageSet(
        pixels=(images * 255).round().to(torch.uint8), labels=(labels + 1) % 10, num_classes=10
    )
    return replace(dataset, validation=wrong)


def zero(trainer: Trainer) -> None:
    for value in trainer.average.network.parameters():
        nn.init.zeros_(value)


def waited(batch: AttackedBatch) -> AttackedBatch:
    """As if attacked for weights that saw nothing, so that it came clean."""
    return replace(batch, adversarial=batch.images, version=-40)


def unchanged(model, images, labels) -> Tensor:
    """An attack that sees nothing, without threat, steps or a generator."""
    return images


def case(way: str) -> Case:
    mnist = load_dataset("mnist")
    right = Templates(mnist)
    weak = small(attack=WEAK, batch_size=64, validation=Validation(every=0, alarm_every=4))
    strong = replace(weak, attack=PGD(threat=Linf(eps=0.3), steps=4))
    return {
        "nothing": lambda: Case(weak, right, mnist),
        "examples": lambda: Case(strong, right, mnist, batch=waited),
        "memory": lambda: Case(weak, right, shuffled(mnist)),
        "mode": lambda: Case(weak, StaleStatistics(right), mnist),
        "clean": lambda: Case(weak, OnlyAttacked(right), mnist),
        "attack": lambda: Case(replace(weak, attack=BLIND), right, mnist),
        "own attack": lambda: Case(replace(weak, attack=unchanged), right, mnist),
        "precision": lambda: Case(replace(weak, precision="bf16"), OnlyRounded(right), mnist),
        "average": lambda: Case(replace(weak, average=0.99), right, mnist, spoil=zero),
        "natural mode": lambda: Case(
            replace(weak, attack=replace(WEAK, steps=0)), StaleStatistics(right), mnist
        ),
    }[way]()


def compared(made: Case) -> Comparison:
    trainer = Trainer(made.config, made.dataset, CPU, made.network)
    made.spoil(trainer)
    batch = made.batch(trainer.loader.begin(0))
    return Comparer(made.config, made.dataset, CPU).compare(trainer, batch)


@pytest.mark.parametrize(
    "way", ["examples", "memory", "mode", "clean", "attack", "own attack", "precision", "average"]
)
def test_each_kind_of_gap_is_named(way: str) -> None:
    made = case(way)
    found = compared(made)
    assert [gap.way for gap in found.gaps] == [way], found
    alarm = OverfittingAlarm(made.config, made.dataset, CPU)
    said = alarm.notices(replace(found, step=made.config.updates))
    assert [text.partition(":")[0] for text in said] == [WAYS[way].partition(":")[0]]
    (gap,) = found.gaps
    assert f"{gap.trained:.0%}" in said[0]
    assert f"{gap.judged:.0%}" in said[0]
    assert "{" not in said[0]


def test_a_network_that_is_trained_as_it_is_judged_has_no_gap() -> None:
    found = compared(case("nothing"))
    assert found.batch_accuracy is not None
    assert found.batch_accuracy > 0.5
    assert not found.gaps


def test_natural_training_is_compared_without_attacks() -> None:
    found = compared(case("natural mode"))
    assert (found.own_accuracy, found.long_accuracy, found.attacked_accuracy) == (None, None, None)
    assert [gap.way for gap in found.gaps] == ["mode"]


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_comparing_changes_no_buffer_mode_or_random_state(precision: str) -> None:
    config = small(precision=precision, average=0.5)
    dataset = load_dataset("mnist")
    trainer = Trainer(config, dataset, CPU, Restless())
    trainer.network.get_submodule("drop").eval()
    trainer.update(trainer.loader.begin(0))
    before = weights_of(trainer.network), weights_of(trainer.average.network)
    buffers = dict(trainer.network.named_buffers())
    modes = [module.training for module in trainer.network.modules()]
    random = torch.get_rng_state()
    Comparer(config, dataset, CPU).compare(trainer, trainer.loader.begin(1))
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in trainer.network.modules()]
    assert all(buffers[name] is value for name, value in trainer.network.named_buffers())
    assert_same_bits(weights_of(trainer.network), before[0])
    assert_same_bits(weights_of(trainer.average.network), before[1])


@pytest.mark.parametrize("images", [1, 3, 9])
def test_few_images_are_compared_too(images: int) -> None:
    config = small(validation=Validation(every=0, alarm_images=images), batch_size=2)
    dataset = load_dataset("mnist")
    trainer = Trainer(config, dataset, CPU, Restless())
    found = Comparer(config, dataset, CPU).compare(trainer, trainer.loader.begin(0))
    assert (found.trained_accuracy is None) is (images == 1)


SIMULATED = Comparison(
    step=100,
    own_steps=2,
    long_steps=10,
    own_accuracy=0.8,
    long_accuracy=0.75,
    batch_accuracy=0.85,
    trained_accuracy=0.82,
    attacked_accuracy=0.81,
    clean_trained_accuracy=0.97,
    clean_accuracy=0.96,
    average_accuracy=0.8,
)


@pytest.mark.parametrize(
    ("changes", "ways"),
    [
        ({}, []),
        ({"attacked_accuracy": 0.3}, ["mode"]),
        ({"clean_accuracy": 0.1, "own_accuracy": 0.1, "long_accuracy": 0.0}, ["mode", "clean"]),
        ({"long_accuracy": 0.1}, ["attack"]),
        ({"average_accuracy": 0.1}, ["average"]),
        ({"batch_accuracy": 0.98, "fresh_accuracy": 0.2, "trained_accuracy": 0.2}, ["examples"]),
        ({"batch_accuracy": 0.98, "trained_accuracy": 0.45}, ["memory"]),
        (
            {
                "batch_accuracy": 0.98,
                "trained_accuracy": 0.7,
                "attacked_accuracy": 0.6,
                "own_accuracy": 0.6,
                "long_accuracy": 0.4,
                "average_accuracy": 0.5,
            },
            ["together"],
        ),
        ({"classes": 2, "attacked_accuracy": 0.52}, ["mode"]),
        ({"classes": 2, "trained_accuracy": 0.6, "attacked_accuracy": 0.45}, []),
        (
            {
                "classes": 100,
                "batch_accuracy": 0.3,
                "trained_accuracy": 0.3,
                "attacked_accuracy": 0.3,
                "own_accuracy": 0.3,
                "long_accuracy": 0.02,
                "average_accuracy": 0.3,
            },
            ["attack"],
        ),
    ],
)
def test_which_accuracies_part(changes: dict[str, float], ways: list[str]) -> None:
    assert [gap.way for gap in replace(SIMULATED, **changes).gaps] == ways
