"""Searches that stop for each image at its own time, and the batch that carries them.

An attack of a suite consists of searches: restarts, or one for each target class. A search is a
function from a state to the next, with a row of its own for every image; so images that fall leave
the batch at once and others take their places, wherever the others are in their search.

Shapes: B rows in flight, S one image (C H W), K classes.  Units: pixels in [0, 1].
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Generator, Tensor

from sparring.attacks.checks import Batch, Classifier, as_tensors, check_targets, checked, numbered
from sparring.attacks.losses import others
from sparring.attacks.threat import Threat
from sparring.errors import ConfigError
from sparring.models import (
    check_callable,
    chosen_batch_size,
    evaluation_mode,
    plain_settings,
)
from sparring.records.typed import typed

REFILL = 1 / 8
"""Share of a batch that is free when others are let in: it is not rebuilt for every image."""

FORWARD = 1 / 3
"""Cost of a forward pass, as a share of a forward and a backward one."""

ATTACKED = "images under attack"
"""What `NonFiniteLogits` calls what a search asks about."""

State = Mapping[str, Tensor]
"""Where every image's search is: tensors with a row for each."""


class Task(NamedTuple):
    """What a search is to work on, a row for each image."""

    images: Tensor
    """Clean images [B, *S]."""
    labels: Tensor
    """Their classes [B]."""
    targets: Tensor
    """The classes that they are to be taken for [B], where the search has targets."""
    seeds: Tensor
    """The seeds of their random numbers [B]."""

    def of(self, places: Tensor) -> "Task":
        """The task of the images at these places."""
        return Task(*(value[places.to(value.device)] for value in self))


_Same = TypeVar("_Same", bound="Attack")


class Move(NamedTuple):
    """What one step of a search brought."""

    state: State
    """Where the search is now."""
    points: Tensor
    """The images that were looked at."""
    wrong: Tensor
    """Where such an image deserves to be judged: the model seemed to err there [B]."""
    over: Tensor
    """Whose search has come to its end [B]."""


@runtime_checkable
class Search(Protocol):
    """One search of a threat for misclassified images."""

    rank: int
    """Its target: 1 for the class most like the label's by the clean logits; 0 for none."""

    @property
    def queries(self) -> int:
        """Passes that an image takes at most."""
        ...

    @property
    def effort(self) -> float:
        """Cost of one of them, in forward and backward passes."""
        return 1.0

    def begin(self, task: Task, logits_of: Classifier) -> State:
        """The state before the first pass; `logits_of` is the model that will be searched."""
        ...

    def advance(self, logits_of: Classifier, state: State) -> Move:
        """One pass: no row's course depends on another's."""
        ...

    def best(self, state: State) -> Tensor:
        """The image nearest to misleading the model that each row has come to."""
        ...

    def restored(self, state: State) -> State:
        """The state to resume from, given one read from a file: derived entries are recomputed."""
        return state


@runtime_checkable
class Attack(Protocol):
    """What a suite consists of: searches, each on the images that those before it left.

    An attack of this library is a frozen dataclass that inherits this class.
    """

    threat: Threat
    """The set that is searched."""

    @property
    def name(self) -> str:
        """How results cite it: what distinguishes it within a suite."""
        ...

    def searches(self, num_classes: int) -> Sequence[Search]:
        """Its searches for a model with `num_classes` outputs."""
        ...

    def against(self: _Same, threat: Threat) -> _Same:
        """The same attack on another threat."""
        attack: Any = self
        return replaced(attack, threat=threat)

    def at(self, eps: float) -> "Attack":
        """The same attack at another size of its threat."""
        return self.against(self.threat.at(eps))

    def obstacle(self, image_shape: Sequence[int], num_classes: int) -> str | None:
        """Why it cannot search such images of such a model, in a clause; `None` if it can."""
        return None

    def caveat(self, num_classes: int) -> str | None:
        """What is other than usual for a model with so few classes, in a sentence."""
        return None


class SearchAttack(Attack, Protocol):
    """An attack that can be called, and that consists of nothing but its searches."""

    def targeted(self, num_classes: int) -> Sequence[Search]:
        """Its searches for images that are taken for given classes."""
        raise ConfigError(f"{type(self).__name__} has no targeted form. Take PGD, APGD or FAB.")

    @typed
    def __call__(  # noqa: PLR0913 - what is attacked, settings by keyword
        self,
        model: Classifier,
        images: Batch,
        labels: Batch,
        *,
        targets: Batch | None = None,
        generator: Generator | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Each image as the attack leaves it: misclassified where it could, else its last point.

        Images that the model errs on when clean stay as they are. With `targets`, one class for
        each image, an image counts as misclassified only if it is taken for that class. Without a
        `generator` one is seeded from torch's global generator (see `seeded`). Neither the model
        nor any other random state is changed. At most `batch_size` images are searched at once, by
        default 128 on a CPU and 1,024 elsewhere (untested); rounding, and so the last bits of the
        result, depends on it. Raises `ConfigError` for images, labels or logits that cannot be
        meant.
        """
        images, labels = as_tensors(images, labels, model)
        batch_size = chosen_batch_size(batch_size, images.device)
        generator = seeded(generator)
        with no_trace(model):
            images, labels = images.detach().clone(), labels.to(images.device, copy=True)
            found = images.clone()
            if not len(images):
                return found
            wanted = None if targets is None else check_targets(targets, labels)
            logits_of = checked(model, labels if wanted is None else torch.cat([labels, wanted]))
            logits = logits_of(images)

            def resists(logits: Tensor, places: Tensor) -> Tensor:
                said = logits.argmax(1)
                kept = said == labels[places] if wanted is None else said != wanted[places]
                return kept.cpu()

            robust = resists(logits, torch.arange(len(labels)))
            of = self.searches if wanted is None else self.targeted
            searches = of(logits.shape[1])
            if obstacle := self.obstacle(tuple(images.shape[1:]), logits.shape[1]):
                raise ConfigError(f"{self.name} cannot search these images: {obstacle}.")
            for search in searches:
                seeds = torch.randint(2**62, (len(images),), generator=generator).to(images.device)
                aims = ranked(logits, labels, search.rank) if wanted is None else wanted
                task = Task(images, labels, aims, seeds)
                waiting = robust.nonzero().flatten()
                if not len(waiting):
                    break
                batched = BatchedSearch(
                    search=search,
                    logits_of=logits_of,
                    begin=lambda places, search=search, task=task: search.begin(
                        task.of(places), logits_of
                    ),
                    waiting=waiting,
                    batch_size=batch_size,
                )
                while batched.left:
                    places, last = batched.advance(lambda places, _: torch.ones(len(places)).bool())
                    found[places] = last
                with numbered(waiting, ATTACKED):
                    logits_after = logits_of(found[waiting])
                robust[waiting] = resists(logits_after, waiting)
        return found


IsBroken = Callable[[Tensor, Tensor], Tensor]
"""Places in the set and images there, to where an image counts as broken."""


@dataclass(kw_only=True, slots=True, eq=False)
class BatchedSearch:
    """One search over many images, a batch at a time; broken or finished images make room."""

    search: Search
    """What is carried out."""
    logits_of: Classifier
    """The model as the search sees it."""
    begin: Callable[[Tensor], State]
    """The first state of the images at these places."""
    waiting: Tensor
    """Places still to be searched [W]."""
    batch_size: int
    """Most images in flight."""
    places: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """Places in flight [B]."""
    state: State = field(default_factory=dict)
    """Where their searches are."""
    _checked: Classifier = field(init=False)

    def __post_init__(self) -> None:
        """Whatever a search asks the model, it gets finite logits."""
        self._checked = checked(self.logits_of, torch.empty(0, dtype=torch.int64))

    @property
    def left(self) -> int:
        """Images that are in flight or wait."""
        return len(self.waiting) + len(self.places)

    def advance(self, is_broken: IsBroken) -> tuple[Tensor, Tensor]:
        """One pass of everyone in flight; returns the places that left and their images.

        To be called under PyTorch's default settings (`plain_settings`). Cost: a pass, and what
        `is_broken` takes for those that seem broken.
        """
        with torch.no_grad(), evaluation_mode(self.logits_of):
            self._fill()
            with numbered(self.places, ATTACKED):
                move = self.search.advance(self._checked, self.state)
        fell = torch.zeros(len(self.places), dtype=torch.bool)
        rows = move.wrong.cpu().nonzero().flatten()
        if len(rows):
            fell[rows] = is_broken(self.places[rows], move.points[rows])
        leaves = fell | move.over.cpu()
        gone = self.places[leaves]
        self.state = move.state
        if not len(gone):
            return gone, move.points[:0]
        last = self.search.best(move.state)
        last = torch.where(column(fell, last), move.points, last)[leaves]
        self.state = {name: value[~leaves] for name, value in move.state.items()}
        self.places = self.places[~leaves]
        return gone, last

    def _fill(self) -> None:
        room = self.batch_size - len(self.places)
        if not len(self.waiting) or (room < REFILL * self.batch_size and len(self.places)):
            return
        new, self.waiting = self.waiting[:room], self.waiting[room:]
        state = self.begin(new)
        if len(self.places):
            state = {name: torch.cat([self.state[name], state[name]]) for name in state}
        self.state, self.places = state, torch.cat([self.places, new])


def seeded(generator: Generator | None) -> Generator:
    """The generator itself, or a new one with a seed from torch's global CPU generator.

    That draws one number: `torch.manual_seed` decides the seed, and the next call has another.
    """
    if generator is not None:
        return generator
    return Generator().manual_seed(int(torch.randint(2**62, (), device="cpu")))


@contextmanager
def no_trace(model: object) -> Iterator[None]:
    """Evaluation mode and no gradients but those asked for, everything put back after it.

    Raises `ConfigError` for what is no model, or a module without usable weights.
    """
    check_callable(model)
    # An inference tensor cannot take part in a backward pass; a copy made in here can.
    with plain_settings(), torch.no_grad(), evaluation_mode(model):
        yield


def ranked(logits: Tensor, labels: Tensor, rank: int) -> Tensor:
    """The class that is so many places behind the label's [B]: the label's own for rank 0."""
    if not rank:
        return labels
    return others(logits, labels).argsort(dim=1, descending=True, stable=True)[:, rank - 1]


def column(rows: Tensor, images: Tensor) -> Tensor:
    """One value a row in a shape that goes with images [B, *S]."""
    return rows.to(images.device).view(-1, *[1] * (images.ndim - 1))
