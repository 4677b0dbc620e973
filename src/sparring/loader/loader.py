"""Adversarial batches for any training loop, made here or by workers while you train.

Shapes: B batch, C H W image.  Units: pixels in [0, 1], seconds are wall-clock.
"""

import hashlib
import logging
import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import (
    AttackedBatch,
    BatchAttack,
    Crafter,
    EarlySteps,
    Recipe,
)
from sparring.attacks.batch_attack import BUILT_IN
from sparring.attacks.identity import identity
from sparring.data import Augmentation, Dataset, Images, first_images, images_from
from sparring.engine.attacker import AttackJob
from sparring.errors import CheckpointError, ConfigError, SparringError
from sparring.loader.asynchronous import Asynchronous
from sparring.loader.sending import AT_THE_TOP, CopyOf, check_rebuilt, check_sent
from sparring.loader.source import LiveModel, Place, Source, SourceSetup
from sparring.loader.sources import Fresh, SourceKind, check_source
from sparring.models import (
    PROBES,
    Precision,
    WorkingCopy,
    check_network,
    device_of,
    evaluation_mode,
    possible_precision,
    working_copy,
)
from sparring.models.calling import plain_settings
from sparring.records.checks import at_least, positive
from sparring.records.stage import IN_TURN, Stage
from sparring.records.typed import typed

log = logging.getLogger(__name__)

FORMAT = 1
"""Layout of a state dict."""
BUILD = "pass build=, a function at the top of a module that makes such a network"
"""Advice for a model that does not pickle."""
SAMPLE = 256
"""Images, evenly spaced, by which a state knows its data."""


class AdversarialLoader:
    """Adversarial batches of a data set for a model in training; use it in place of a `DataLoader`.

    Iterate over it once and update `model` with every batch; then call `updated()`, so that workers
    get the new weights at once. Without that call they get them with the next batch. The batches
    are reproducible: with the sources `Fresh`, `Stale` and `Asynchronous` with a fixed lag they
    depend on the seed and on your updates only, not on timing or on the number of workers.

    `data` are `Images`, a `Dataset` (its training images), a pair (images, labels) of tensors or
    arrays, or any `torch.utils.data.Dataset`; pixels are bytes, or grey levels / 255. `model` maps
    images in [0, 1] to logits; batches are on its device. `attack` is one of `sparring.attacks`, or
    any callable `attack(model, images, labels, generator=…)`; a schedule of ε, early steps and
    fresh steps need one with `PGD`'s methods. Give `updates`, the number of batches, or `epochs`.
    `source` is `Fresh()` by default. `eps_schedule` maps the share of training that is over, in
    [0, 1), to a factor of ε. `precision` is that of the attack's passes: "auto" is bf16 if the
    hardware has units for it. `build` makes a network like the model in a worker, for models that
    do not pickle. Of `world_size` processes that train together, each gets its `rank`'s part of
    every batch. Model and attack are tried on eight images at once; workers start with the first
    batch.

    Use it as a context manager, or `close()` it: that ends the workers. A script that asks for
    workers must do so behind `if __name__ == "__main__":`, since workers import it. Workers and
    trainer compute with `torch.get_num_threads()` CPU threads each, as it is when the loader opens:
    on entering `with`, or at the first batch. With workers on the same CPU, set it to 1.

    Cost: a batch costs its attack; with workers, the wait for it and a copy of the images.
    Raises `DataError` for data, and `ConfigError` for anything else that cannot be used.
    Source: Bhat, Tsipras & Mądry 2019, section 5, for the asynchronous batches.
    """

    @typed
    @plain_settings()
    def __init__(  # noqa: PLR0913 - data, model and attack; the settings by keyword
        self,
        data: object,
        model: nn.Module,
        attack: BatchAttack,
        *,
        batch_size: int = 128,
        updates: int | None = None,
        epochs: float | None = None,
        seed: int = 0,
        source: SourceKind | None = None,
        eps_schedule: Callable[[float], float] | None = None,
        early_steps: Sequence[EarlySteps] = (),
        augmentation: Sequence[Augmentation] = (),
        precision: Precision = "auto",
        build: Callable[[], nn.Module] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        images = data.train if isinstance(data, Dataset) else data
        if not isinstance(images, Images):
            images = images_from(data)
        source = Fresh() if source is None else source
        recipe = Recipe(
            attack=attack,
            batch_size=batch_size,
            updates=updates_for(updates, epochs, len(images), batch_size),
            seed=seed,
            eps_schedule=eps_schedule,
            early_steps=tuple(early_steps),
            fresh_steps=source.fresh_steps,
            augmentation=tuple(augmentation),
            split=source.split,
            rank=rank,
            world_size=world_size,
        )
        check_source(source, recipe)
        device = device_of(model)
        few = first_images(images, PROBES).to(device)
        check_network(model, few, _outputs(model, few, images.num_classes))
        if isinstance(source, Asynchronous):
            source.transport.check()
            if source.workers != 0:
                if build is None:
                    check_sent(recipe, images, "model", CopyOf(model).network, BUILD)
                else:
                    check_sent(recipe, images, "build", build, AT_THE_TOP)
            check_rebuilt(model, build or CopyOf(model), few)
            source.layout(model, images.image_shape, recipe.rank_batch_size)
        copy = working_copy(model, possible_precision(model, precision, few))
        job = AttackJob(recipe=recipe, build=build or CopyOf(model), precision=precision)
        # Before the attack is tried: one of your own may count its calls.
        known = _code_of(recipe)
        crafter = Crafter(recipe, images, device)
        if type(attack) not in BUILT_IN:
            tried = crafter.clean(0, parts=max(1, recipe.rank_batch_size // PROBES))
            for stage in IN_TURN:
                tried = crafter.craft(tried, copy.attacked, version=0, stage=stage)
        live = LiveModel(network=model, copy=copy)
        place = Place.local(rank, world_size)
        setup = SourceSetup(model=live, crafter=crafter, job=job, place=place)
        self._assemble(setup, source, known)

    @classmethod
    def of(cls, setup: SourceSetup, source: SourceKind) -> "AdversarialLoader":
        """A loader of parts that are already made and checked, as `train` has them."""
        loader = cls.__new__(cls)
        loader._assemble(setup, source, _code_of(setup.crafter.recipe))
        return loader

    def _assemble(self, setup: SourceSetup, source: SourceKind, code: Mapping[str, str]) -> None:
        self._setup, self._kind, self._code = setup, source, code
        self._model = setup.model
        self._source: Source | None = None
        self._closed = self._waits_for_update = self._has_begun = self._has_ended = False
        self._is_current = False
        self._end: Callable[[], object] = lambda: None
        self.supply_seconds = 0.0
        """Time for the last batch: its attack, or the wait for a worker."""
        self.commit_seconds = 0.0
        """Time for serving the workers after the last update."""

    @property
    def recipe(self) -> Recipe:
        """How the batches are made."""
        return self._setup.crafter.recipe

    @property
    def version(self) -> int:
        """Updates that the weights have seen."""
        return self._model.version

    @property
    def copy(self) -> WorkingCopy:
        """The form of passes: `copy.attacked` for attacks, `copy.trained` for updates."""
        if not self._is_current:
            self._refresh()
        return self._model.copy

    @copy.setter
    def copy(self, copy: WorkingCopy) -> None:
        self._model.copy = copy

    def __len__(self) -> int:
        """Batches of the whole training."""
        return self.recipe.updates

    def __repr__(self) -> str:
        recipe, images = self.recipe, self._setup.crafter.images
        return (
            f"AdversarialLoader({images!r}, {recipe.attack!r}, batch_size={recipe.batch_size}, "
            f"source={self._kind!r}, {self.version} of {len(self)} updates)"
        )

    def __iter__(self) -> Iterator[AttackedBatch]:
        """The loader itself: a second loop continues where the first one stopped.

        Raises `ConfigError` after the last batch: a loader is a whole training, not an epoch.
        """
        if self._has_ended:
            raise ConfigError(
                f"this loader has given its {len(self)} batches, and gives them once. Pass more "
                "updates to it for a longer training."
            )
        return self

    @plain_settings()
    def __next__(self) -> AttackedBatch:
        """The next batch, with the staleness of its source."""
        source = self._opened()
        self.updated()
        self._has_begun = True
        begun = time.perf_counter()
        self._refresh()  # weights may change at other times than `updated` says
        try:
            batch = source.next()
        except StopIteration:
            self._has_ended = True
            raise
        self.supply_seconds = time.perf_counter() - begun
        self._waits_for_update = True
        return batch

    def updated(self) -> None:
        """Call this after the update with the last batch; a second call does nothing."""
        if self._waits_for_update:
            self.advance()

    @plain_settings()
    def advance(self) -> None:
        """Count an update with the last batch, or with one that `begin` and `finish` made.

        For trainers; a loop of your own calls `updated`. Raises `ConfigError` if the update with
        the last batch was counted before: its source would skip one.
        """
        if self._source is not None and not self._waits_for_update:
            raise ConfigError(
                "the update with the last batch is counted already. Other changes of the weights "
                "need no call: the next batch is attacked with the weights as they then are."
            )
        self._waits_for_update, self._has_begun = False, True
        self._model.version += 1
        self._is_current = False
        begun = time.perf_counter()
        if self._source is not None and not self._closed:
            self._source.updated()
        self.commit_seconds = time.perf_counter() - begun

    def begin(self, number: int) -> AttackedBatch:
        """The batch of any ticket, attacked now except for its fresh steps."""
        return self._crafted(self._setup.crafter.clean(number), "first")

    def finish(self, batch: AttackedBatch) -> AttackedBatch:
        """The batch after its fresh steps, with the weights as they are now."""
        return self._crafted(batch, "last")

    def figures(self) -> Mapping[str, int | float | str]:
        """Measurements of the last batch that only its source knows, such as its worker."""
        return {} if self._source is None else self._source.figures()

    def totals(self) -> Mapping[str, int]:
        """Counts over the whole training so far, such as lost leases."""
        return {} if self._source is None else self._source.totals()

    @plain_settings()
    def state_dict(self) -> dict[str, Any]:
        """The state to resume from with the next batch, without the weights.

        The last batch counts as trained on. Tensors are copies. Size: that of the batches that wait
        in a source `Stale`, or of the old weights that an asynchronous one still needs.
        """
        self.updated()
        return {
            "format": FORMAT,
            "version": self.version,
            "settings": self._settings(),
            "arithmetic": self._model.copy.name,
            "source": self.source_state(),
        }

    @plain_settings()
    def load_state_dict(self, state: object) -> None:
        """Resume where the loader of this state was; load the model's weights before.

        A state of another arithmetic is taken, with a warning in the log: later batches may differ
        from those that the other loader would have made. Raises `CheckpointError` for a state of
        other settings, or a damaged one, and `ConfigError` after the first batch.
        """
        if self._has_begun:
            raise ConfigError(
                "load_state_dict must come before the first batch. Make a new loader and load the "
                "state there."
            )
        if not isinstance(state, Mapping) or state.get("format") != FORMAT:
            raise CheckpointError(
                "this is no state of an AdversarialLoader of this version of sparring. Pass what "
                "state_dict() returned."
            )
        here, there = self._settings(), state.get("settings")
        if there != here:
            known = there if isinstance(there, Mapping) else {}
            other = [name for name, value in here.items() if known.get(name) != value]
            raise CheckpointError(
                f"the state belongs to a loader with other settings ({', '.join(other)}). Make the "
                "loader with the same arguments as before."
            )
        version = state.get("version")
        if not isinstance(version, int) or not 0 <= version <= len(self):
            rule = f"the state's version must be a number from 0 to {len(self)}"
            raise CheckpointError.expected(rule, f"{version!r:.40}", "The state is damaged.")
        there, here = state.get("arithmetic"), self._model.copy.name
        if there not in (None, here):
            log.warning("the state is of passes in %s, this loader's are %s", there, here)
        try:
            self.restore(state.get("source", {}), version)
        except SparringError:
            raise  # the state was not the cause
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the state of the loader is damaged: {str(error)[:160]}. Start from another one."
            ) from error

    def source_state(self) -> dict[str, Tensor]:
        """The source's part of a state."""
        return dict(self._opened().state())

    def restore(self, source: Mapping[str, Tensor], version: int) -> None:
        """Resume after `version` updates; raises `ValueError` for a damaged state."""
        self._opened().restore(source, version)
        self._model.version = version
        self._is_current = False

    def close(self) -> None:
        """End the workers and release their memory; may be called twice."""
        self._closed = True
        self._end()

    def __enter__(self) -> "AdversarialLoader":
        """Open the source, which fails here if for example no cluster answers."""
        self._opened()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _refresh(self) -> None:
        self._model.copy.refresh()
        self._is_current = True

    @plain_settings()
    def _crafted(self, batch: AttackedBatch, stage: Stage) -> AttackedBatch:
        if not self._is_current:
            self._refresh()
        return self._setup.craft(batch, stage)

    @plain_settings()
    def _opened(self) -> Source:
        if self._closed:
            raise ConfigError("this loader is closed. Make a new one.")
        if self._source is None:
            self._source = self._kind.open(self._setup)
            self._end = weakref.finalize(self, self._source.close)
        return self._source

    def _settings(self) -> dict[str, Any]:
        """The settings that a state and its loader must have in common."""
        recipe = self.recipe
        names = ("batch_size", "updates", "seed", "fresh_steps", "split", "rank", "world_size")
        settings: dict[str, Any] = {name: getattr(recipe, name) for name in names}
        return {
            **settings,
            "num_images": len(self._setup.crafter.images),
            "data": _known_images(self._setup.crafter.images),
            "early_steps": repr(recipe.early_steps),
            "source": _known(_lasting(self._kind)),
            **self._code,
        }


def _lasting(kind: SourceKind) -> object:
    """The settings of a source that determine its batches; the number of workers does not."""
    return kind.policy if isinstance(kind, Asynchronous) else kind


def _code_of(recipe: Recipe) -> dict[str, str]:
    """What the settings that may be code of your own are known by."""
    names = ("attack", "augmentation", "eps_schedule")
    return {name: _known(getattr(recipe, name)) for name in names}


def _known(setting: object) -> str:
    """What tells settings apart, in any process."""
    return hashlib.sha256(repr(identity(setting)).encode()).hexdigest()


def _known_images(images: Images) -> str:
    """What tells data apart: all labels, and `SAMPLE` images."""
    places = torch.linspace(0, len(images) - 1, min(SAMPLE, len(images))).round().long()
    return _known((images.labels, images.levels(places)))


def updates_for(updates: int | None, epochs: float | None, images: int, batch_size: int) -> int:
    """Number of updates: `updates`, or those of `epochs` passes over the images, rounded up.

    Raises `ConfigError` unless exactly one of the two is given.
    """
    if (updates is None) == (epochs is None):
        got = "neither" if updates is None else "both"
        raise ConfigError.expected("give either updates, the number of batches, or epochs", got)
    if updates is not None:
        at_least("updates", updates, 1)
        return updates
    assert epochs is not None
    positive("epochs", epochs)
    at_least("batch_size", batch_size, 1)
    return max(1, math.ceil(epochs * images / batch_size))


def _outputs(model: nn.Module, images: Tensor, num_classes: int) -> int:
    """Number of logits of the model, and at least `num_classes`."""
    try:
        with torch.no_grad(), evaluation_mode(model):
            logits = model(images.clone())
        return max(num_classes, int(logits.shape[1]))
    except Exception:
        return num_classes  # `check_network` reports the error
