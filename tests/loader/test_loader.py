"""Batches for anybody's loop: the same bits as `train()`, resumable, and refused early if wrong."""

import copy
import gc
import io
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from sparring.attacks import PGD, EarlySteps, Linf
from sparring.data import Flip, ImageSet, load_dataset
from sparring.engine import FixedLag, Newest, Sync
from sparring.errors import CheckpointError, ConfigError, DataError
from sparring.loader import AdversarialLoader, Asynchronous, Fresh, SourceKind, Stale
from sparring.models import drawing_from
from sparring.training import SGD, WarmUp, train
from training.plain_net import Plain
from training.small_runs import assert_same_bits, small, weights_of

LAG = FixedLag(lag=3, split=2)
SOURCES: dict[str, SourceKind] = {
    "fresh": Fresh(),
    "stale": Stale(staleness=3),
    "stale with fresh steps": Stale(staleness=3, fresh_steps=1),
    "lag, no worker": Asynchronous(workers=0, policy=LAG, fresh_steps=1),
    "lag, a worker": Asynchronous(workers=1, policy=LAG, fresh_steps=1),
    "in step": Asynchronous(workers=0, policy=Sync(), fresh_steps=0),
}
ATTACK = PGD(threat=Linf(eps=0.3), steps=2)
UPDATES = 8


def network() -> nn.Module:
    with drawing_from(3):
        return Plain()


@pytest.fixture(scope="module")
def mnist() -> Any:
    return load_dataset("mnist")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def opened(data: Any, model: nn.Module, source: SourceKind, **settings: Any) -> AdversarialLoader:
    given: dict[str, Any] = {"batch_size": 8, "updates": UPDATES, "precision": "fp32"} | settings
    return AdversarialLoader(data, model, ATTACK, source=source, **given)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return SGD(learning_rate=0.05, momentum=0.9).build(model.parameters())


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    loss = cross_entropy(model(batch.adversarial), batch.labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def looped(loader: AdversarialLoader, model: nn.Module, *, told: bool = True) -> list[Any]:
    """What anybody writes."""
    batches, optimizer = [], optimizer_of(model)
    with loader:
        for batch in loader:
            step(model, optimizer, batch)
            if told:
                loader.updated()
            batches.append(batch)
    return batches


@pytest.fixture(scope="module")
def trained(mnist: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Weights that `train()` ends in, by source; the number of workers does not matter."""
    known: dict[str, dict[str, Tensor]] = {}

    def weights(name: str, **changes: Any) -> dict[str, Tensor]:
        source = SOURCES[name]
        if isinstance(source, Asynchronous):
            source = replace(source, workers=0)
        key = f"{source} {changes}"
        if key not in known:
            config = small(
                source=source, optimizer=SGD(learning_rate=0.05, momentum=0.9), **changes
            )
            out = tmp_path_factory.mktemp("trained") / "run"
            known[key] = weights_of(train(config, out, data=mnist, network=network()).network)
        return known[key]

    return weights


@pytest.mark.process
@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("name", SOURCES)
def test_a_plain_loop_ends_in_the_weights_of_train(name, mnist, trained):
    model = network().train()
    loader = opened(mnist, model, SOURCES[name])
    batches = looped(loader, model)
    assert_same_bits(weights_of(model), trained(name))
    assert [batch.number for batch in batches] == list(range(UPDATES)) == list(range(len(loader)))
    assert repr(loader).startswith("AdversarialLoader(ImageSet(")
    assert len(repr(loader)) < 400
    bound = SOURCES[name].bound
    assert [batch.staleness for batch in batches] == [min(n, bound) for n in range(UPDATES)]
    assert loader.version == UPDATES


@pytest.mark.parametrize("name", ["stale with fresh steps", "lag, no worker"])
def test_so_it_does_with_schedules_and_augmentation(name, mnist, trained):
    settings: dict[str, Any] = {
        "eps_schedule": WarmUp(share=0.5, start=0.2),
        "early_steps": (EarlySteps(until=0.3, steps=1),),
        "augmentation": (Flip(),),
        "seed": 5,
    }
    model = network().train()
    batches = looped(opened(mnist, model, SOURCES[name], **settings), model)
    assert_same_bits(weights_of(model), trained(name, **settings))
    assert batches[0].eps < batches[-1].eps == pytest.approx(0.3)


@pytest.mark.parametrize("name", ["stale", "lag, no worker"])
def test_not_telling_that_the_weights_are_new_changes_nothing(name, mnist, trained):
    model = network().train()
    looped(opened(mnist, model, SOURCES[name]), model, told=False)
    assert_same_bits(weights_of(model), trained(name))


@pytest.mark.process
@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize(
    ("name", "stop"),
    [
        ("fresh", 3),
        *(("stale with fresh steps", stop) for stop in (0, 3, UPDATES - 1)),
        ("lag, no worker", UPDATES - 1),
        ("lag, a worker", 3),
    ],
)
def test_a_loop_that_was_stopped_goes_on_to_the_same_weights(name, stop, mnist, trained):
    model = network().train()
    optimizer = optimizer_of(model)
    with opened(mnist, model, SOURCES[name]) as loader:
        for _ in range(stop):
            step(model, optimizer, next(loader))
        file = io.BytesIO()
        torch.save([loader.state_dict(), model.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    state, weights, moments = torch.load(file, weights_only=True)
    again = network().train()
    again.load_state_dict(weights)
    resumed = optimizer_of(again)
    resumed.load_state_dict(moments)
    loader = opened(mnist, again, SOURCES[name])
    loader.load_state_dict(state)
    assert loader.version == stop
    numbers = []
    with loader:
        for batch in loader:
            step(again, resumed, batch)
            numbers.append(batch.number)
    assert numbers == list(range(stop, UPDATES))
    assert_same_bits(weights_of(again), trained(name))


@pytest.mark.process
@pytest.mark.usefixtures("forked_workers")
def test_workers_that_are_not_tied_to_a_lag_stay_within_their_bound(mnist):
    model = network().train()
    source = Asynchronous(workers=1, policy=Newest(credits=3, period=2), fresh_steps=0)
    loader = opened(mnist, model, source, updates=20)
    batches = looped(loader, model)
    assert [batch.number for batch in batches] == list(range(20))
    assert all(0 <= batch.staleness <= source.bound for batch in batches)


def test_batches_stay_as_they_are_when_others_come(mnist):
    model = network()
    with opened(mnist, model, SOURCES["lag, no worker"]) as loader:
        batches, copies = [], []
        for batch in loader:
            batches.append(batch)
            copies.append(copy.deepcopy(batch))
    for batch, kept in zip(batches, copies, strict=True):
        assert torch.equal(batch.images, kept.images)
        assert torch.equal(batch.adversarial, kept.adversarial)


def test_the_examples_are_the_attacks_own_on_the_images_of_the_set(mnist):
    model = network()
    with opened(mnist, model, Fresh()) as loader:
        batch = next(loader)
    clean = mnist.train.batch(batch.indices)
    assert torch.equal(batch.images, clean.images)
    assert torch.equal(batch.labels, clean.labels)
    distance = ATTACK.threat.distance(batch.adversarial, batch.images)
    assert 0.2 < float(distance.max()) <= 0.3 + 1e-6


@pytest.mark.parametrize("source", [Fresh(), SOURCES["lag, no worker"]], ids=["fresh", "lag"])
def test_the_model_is_left_as_it_is(source, mnist):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Dropout(0.5), nn.Linear(784, 10))
    before, state = weights_of(model), torch.get_rng_state()
    flags = [part.training for part in model.modules()]
    with opened(mnist, model, source) as loader:
        next(loader)
    assert_same_bits(weights_of(model), before)
    assert [part.training for part in model.modules()] == flags
    assert all(value.requires_grad and value.grad is None for value in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def as_tensors(images: ImageSet) -> tuple[Tensor, Tensor]:
    return images.batch(torch.arange(32))


@pytest.mark.parametrize(
    "form",
    [
        lambda images: images.subset(0, 32),
        as_tensors,
        lambda images: (images.pixels[:32], images.labels[:32]),
        lambda images: TensorDataset(*as_tensors(images)),
        lambda images: list(zip(*as_tensors(images), strict=True)),
    ],
    ids=["images", "floats", "bytes", "TensorDataset", "list"],
)
def test_data_may_come_in_any_form(form, mnist):
    expected = opened(mnist.train.subset(0, 32), network(), Fresh())
    found = opened(form(mnist.train), network(), Fresh())
    with expected, found:
        for _ in range(3):
            one, other = next(expected), next(found)
            assert torch.equal(one.adversarial, other.adversarial)
            assert torch.equal(one.labels, other.labels)


def test_ranks_share_the_batches(mnist):
    model = network()
    whole = opened(mnist, model, Fresh())
    parts = [opened(mnist, model, Fresh(), rank=rank, world_size=2) for rank in range(2)]
    with whole:
        expected = next(whole).indices
    found = [next(part).indices for part in parts]
    assert torch.equal(torch.cat(found), expected)


def test_epochs_are_as_many_batches_as_it_takes(mnist):
    assert len(opened(mnist.train.subset(0, 33), network(), Fresh(), updates=None, epochs=2)) == 9


class Holding(nn.Module):
    """Does not pickle, deep inside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        vars(self.body[1])["act"] = lambda x: x

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


def own_attack(model: Any, images: Tensor, labels: Tensor, *, generator: Any) -> Tensor:
    drawn = torch.rand(images.shape, generator=generator) - 0.5
    return (images + 0.2 * drawn.sign()).clamp(0, 1)


def test_any_callable_is_an_attack(mnist):
    model = network().train()
    loader = AdversarialLoader(mnist, model, own_attack, batch_size=8, updates=3)
    batches = looped(loader, model)
    assert all(batch.eps != batch.eps for batch in batches)  # NaN: it has no threat
    moved = (batches[0].adversarial - batches[0].images).abs().max()
    assert float(moved) == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        ({"updates": None}, ConfigError, "give either updates.*got neither"),
        ({"epochs": 1.0}, ConfigError, "give either updates.*got both"),
        ({"updates": None, "epochs": -1.0}, ConfigError, "epochs must be finite and above 0"),
        ({"updates": 0}, ConfigError, "updates must be 1 or more"),
        ({"data": "mnist"}, DataError, "load_dataset"),
        ({"data": 3}, DataError, "must have a length"),
        ({"model": nn.Linear(3, 10)}, ConfigError, "failed .* on 8 images of shape"),
        ({"model": nn.Flatten()}, ConfigError, "requires a gradient"),
        ({"attack": 3}, ConfigError, "attack must be"),
        ({"attack": own_attack, "source": Stale(fresh_steps=1)}, ConfigError, "got function"),
        ({"attack": PGD(restarts=2), "source": Stale(fresh_steps=1)}, ConfigError, "restarts"),
        ({"model": Holding(), "source": Asynchronous(workers=1)}, ConfigError, r"body\.1\.act"),
        ({"attack": lambda *_, **__: 0, "source": Asynchronous(workers=1, fresh_steps=0)},
         ConfigError, "the attack, a function, cannot be sent to workers"),
        ({"precision": "fp16"}, ConfigError, "precision"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_at_once(arguments, error, complaint, mnist):
    given: dict[str, Any] = {"data": mnist, "model": network(), "attack": ATTACK}
    given |= {"batch_size": 8, "updates": 2} | arguments
    data, model, attack = (given.pop(name) for name in ("data", "model", "attack"))
    with pytest.raises(error, match=complaint):
        AdversarialLoader(data, model, attack, **given)


@pytest.mark.parametrize(
    ("attack", "complaint"),
    [
        (lambda *_, generator: None, "returned NoneType for images of shape"),
        (lambda model, images, labels, generator: images[:1], r"returned shape \(1, 1, 28, 28\)"),
        (lambda model, images, labels, generator: images + 0.5, r"pixels from .* Clamp them"),
        (lambda model, images, labels, generator: images * torch.nan, "pixels that are NaN"),
        (lambda model, images, labels, generator: model(images[:, :, :3]), "the attack .* failed"),
    ],
)
def test_an_attack_that_cannot_be_used_is_refused_at_once(attack, complaint, mnist):
    with pytest.raises(ConfigError, match=complaint):
        AdversarialLoader(mnist, network(), attack, updates=2)


def test_a_builder_takes_the_place_of_a_model_that_does_not_pickle(mnist):
    source = Asynchronous(workers=1)
    opened(mnist, Holding(), source, build=Holding)
    with pytest.raises(ConfigError, match="the build, a function, cannot be sent"):
        opened(mnist, Holding(), source, build=lambda: Holding())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: {}, "no state of an AdversarialLoader"),
        (lambda state: state | {"version": -1}, "version must be a number from 0 to 8"),
        (lambda state: state | {"source": {}}, "is damaged"),
        (lambda state: state | {"source": {"adversarial": torch.zeros(3)}}, "is damaged"),
        (lambda state: state | {"settings": {}}, "other settings"),
        (lambda state: 3, "no state of an AdversarialLoader"),
    ],
)
def test_other_states_are_refused(change, complaint, mnist):
    with opened(mnist, network(), SOURCES["stale"]) as loader:
        next(loader)
        state = loader.state_dict()
    with pytest.raises(CheckpointError, match=complaint):
        opened(mnist, network(), SOURCES["stale"]).load_state_dict(change(state))


def test_a_state_of_other_settings_is_refused(mnist):
    with opened(mnist, network(), Fresh()) as loader:
        state = loader.state_dict()
    with pytest.raises(CheckpointError, match=r"other settings \(batch_size, seed\)"):
        opened(mnist, network(), Fresh(), seed=1, batch_size=4).load_state_dict(state)
    with opened(mnist, network(), Fresh()) as fresh:
        fresh.load_state_dict(state)  # opened, and before the first batch
        assert fresh.state_dict() == state
    begun = opened(mnist, network(), Fresh())
    next(begun)
    with pytest.raises(ConfigError, match="before the first batch"):
        begun.load_state_dict(state)


def test_a_closed_loader_says_so_and_one_that_is_forgotten_closes_itself(mnist):
    loader = opened(mnist, network(), Fresh())
    loader.close()
    with pytest.raises(ConfigError, match="closed"):
        next(loader)
    other = opened(mnist, network(), SOURCES["lag, no worker"])
    next(other)
    arena = weakref.ref(other._source._arena)  # type: ignore[union-attr]
    del other
    gc.collect()
    assert arena() is None


def test_a_loader_gives_its_batches_once(mnist: Any) -> None:
    with opened(mnist, network(), Fresh(), updates=2) as loader:
        assert len([batch.staleness for batch in loader]) == 2
        with pytest.raises(ConfigError, match="has given its 2 batches"):
            list(loader)


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("source", [Fresh(), Stale(staleness=2)])
def test_weights_that_are_loaded_before_the_first_batch_are_attacked(mnist, source, precision):
    with drawing_from(4):
        other = Plain().state_dict()
    model, early = network().train(), network().train()
    early.load_state_dict(other)
    with opened(mnist, early, source, precision=precision) as loader:
        wanted = next(iter(loader))
    with opened(mnist, model, source, precision=precision) as loader:
        model.load_state_dict(other)
        found = next(iter(loader))
    assert torch.equal(found.adversarial, wanted.adversarial)


class Shifted:
    """An augmentation whose repr names its place in memory."""

    def __call__(self, images, ticket, number):
        return images.roll(1, -1)


def test_a_state_is_of_the_settings_and_not_of_a_place_in_memory(mnist):
    def loader(**settings: Any) -> AdversarialLoader:
        return opened(mnist, network(), Fresh(), augmentation=(Shifted(),), **settings)

    state = loader(eps_schedule=WarmUp(share=0.5)).state_dict()
    loader(eps_schedule=WarmUp(share=0.5)).load_state_dict(state)
    for other in ({}, {"eps_schedule": WarmUp(share=0.7)}):
        with pytest.raises(CheckpointError, match=r"other settings \(eps_schedule\)"):
            loader(**other).load_state_dict(state)


@pytest.mark.parametrize("told", [True, False])
def test_the_copy_is_refreshed_once_an_update(mnist, told, monkeypatch):
    model = network().train()
    loader, calls = opened(mnist, model, Fresh()), []
    refresh = loader.copy.refresh
    monkeypatch.setattr(loader.copy, "refresh", lambda: (calls.append(1), refresh()))
    looped(loader, model, told=told)
    assert len(calls) == UPDATES + 1


class Counted:
    """An attack that counts its calls."""

    def __init__(self, much: float = 0.1) -> None:
        self.much, self.calls = much, 0

    def __call__(self, model: Any, images: Tensor, labels: Tensor, *, generator: Any) -> Tensor:
        self.calls += 1
        return (images + self.much).clamp(0, 1)


def grey_images(shade: int) -> ImageSet:
    pixels = torch.full((16, 1, 28, 28), shade, dtype=torch.uint8)
    return ImageSet(pixels=pixels, labels=torch.arange(16) % 10, num_classes=10)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"data": grey_images(101)}, "data"),
        ({"attack": Counted(0.2)}, "attack"),
        ({"eps_schedule": lambda share: 0.5}, "eps_schedule"),
    ],
)
def test_a_state_of_other_data_or_code_is_refused(changes, name):
    def made(**changes: Any) -> AdversarialLoader:
        given: dict[str, Any] = {"data": grey_images(100), "attack": PGD(Linf(eps=0.3), steps=2)}
        if name == "attack":
            given["attack"] = Counted()
        given |= {"eps_schedule": lambda share: 1.0} if name == "eps_schedule" else {}
        given |= changes
        return AdversarialLoader(
            given.pop("data"), network(), given.pop("attack"), batch_size=8, updates=4, **given
        )

    loader = made()
    next(loader)
    state = loader.state_dict()
    with pytest.raises(CheckpointError, match=rf"other settings \({name}\)"):
        made(**changes).load_state_dict(state)
    again = made()
    again.load_state_dict(state)
    assert next(again).number == 1
