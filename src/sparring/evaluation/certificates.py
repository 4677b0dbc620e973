"""A lower bound of robust accuracy for every attack, by intervals and linear relaxation.

An image is certified if the label's logit stays above all others for all images within ε. Intervals
of every layer decide that first. The images that they leave open are bounded by linear forms that
go back through the network (CROWN), once with the intervals of its hidden layers and then with
tighter ones. Bounds contain the rounding of single precision (`sparring.bounds`).

Shapes: B batch, N images, K classes, S one image (C H W).  Units: pixels in [0, 1].
Sources: Gowal et al. 2018, "On the effectiveness of interval bound propagation"; Zhang et al. 2018,
"Efficient Neural Network Robustness Certification with General Activation Functions".
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sparring.attacks import L2, Batch, Linf, Threat, as_batch, checked
from sparring.attacks.losses import margin
from sparring.attacks.threat import itself, reach
from sparring.bounds import (
    Box,
    NetworkBounds,
    Pass,
    Region,
    bytes_of_image,
    tightened,
    unknown,
)
from sparring.errors import ConfigError
from sparring.evaluation.judge import parts, share_of
from sparring.models import check_callable, chosen_batch_size, evaluation_mode, single_precision
from sparring.models.tracing import check_same, unchanging, unshown
from sparring.records import Proportion
from sparring.records.checks import at_least
from sparring.records.typed import typed

PASSES = 2500
"""Linear forms that may go back through the network for one image, each about as long as a pass."""
FRUITLESS = 2_000
"""Linear forms in a row, image after image, that prove none, after which a stage is given up."""
MEMORY = 2**28
"""Bytes of the bounds of one batch."""
BYTES = 32
"""Of a difference of two logits of an image, as a linear form and its bounds."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Certificate:
    """Which images are proved robust, and how."""

    proved: Bool[Tensor, " N"]
    """No change within the threat makes the network misclassify the image."""
    by_intervals: Bool[Tensor, " N"]
    """Of these, the ones that intervals prove."""
    unfinished: Bool[Tensor, " N"]
    """Not proved, and not bounded as tightly as the method can: the budget ended before."""
    seconds: float

    def __str__(self) -> str:
        more = int(self.proved.sum() - self.by_intervals.sum())
        left = int(self.unfinished.sum())
        cut = f"; the budget ended before {left} were bounded in full" if left else ""
        return (
            f"{int(self.proved.sum())} of {len(self.proved)} images are proved robust, "
            f"{int(self.by_intervals.sum())} by intervals and {more} by linear relaxation{cut}"
        )


@typed
def certified(
    model: nn.Module,
    images: Batch,
    labels: Batch,
    threat: Threat,
    *,
    batch_size: int | None = None,
) -> Proportion:
    """The share of images that no change within the threat makes this network misclassify.

    As `certificate`, within its default budget.
    """
    return share_of(certificate(model, images, labels, threat, batch_size=batch_size).proved)


@typed
def certificate(  # noqa: PLR0913 - what is proved, settings by keyword
    model: nn.Module,
    images: Batch,
    labels: Batch,
    threat: Threat,
    *,
    batch_size: int | None = None,
    passes: int = PASSES,
    seconds: float | None = None,
) -> Certificate:
    """Which images no change within the threat makes this network misclassify.

    `model` is bounded in evaluation mode. Supported are linear layers, convolutions, ReLU, max- and
    average-pooling, BatchNorm, normalisation, sums and changes of shape. At most `batch_size`
    images pass at once, by default 128 on a CPU and 1,024 elsewhere (untested).

    The budget of linear forms is `passes` for one image, of which two for each class go first, and
    two for each once more at the end; 0 leaves it at intervals. None begins later than `seconds`
    after the call. Images go in the order of their margins, and each of the two stages is given up
    after 2,000 forms in a row that proved none. What the budget leaves open is not proved.
    Cost of intervals: three forward passes in float64, and ten in the network's own arithmetic.
    Raises `ConfigError` as `evaluate` for images and labels; for a layer without a known bound, for
    float32 in fewer bits, by PyTorch's settings or the weights' dtype, for a network that its trace
    does not show (`sparring.models.tracing`), and for logits of allowed images outside the bounds.
    """
    begun = time.perf_counter()
    at_least("passes", passes, 0)
    check_callable(model)
    plain, whole = torch.inference_mode(mode=False), evaluation_mode(model)
    with plain, torch.no_grad(), single_precision(), whole, unchanging(model):
        images, labels = as_batch(images, labels, "a certificate", model)
        first = next(model.parameters(), images)
        check_arithmetic(model, first.device)
        classes = checked(model, labels)(images[:1].to(first)).shape[1]
        fitting = max(1, MEMORY // (BYTES * classes**2))
        size = min(chosen_batch_size(batch_size, first.device), fitting)
        proof = _Proof(model, images.to(first.device), labels.to(first.device), threat)
        for part in parts(len(labels), size):
            proof.by_intervals(part, first.dtype)
        held = proof.proved
        until = math.inf if seconds is None else begun + seconds
        proof.by_forms(size, _Budget(passes, until))
        proof.by_tighter_forms(_Budget(passes, until))
    return Certificate(
        proved=proof.proved.cpu(),
        by_intervals=held.cpu(),
        unfinished=proof.unfinished.cpu(),
        seconds=time.perf_counter() - begun,
    )


class _Budget:
    """What linear forms of one stage may cost."""

    def __init__(self, passes: int, until: float) -> None:
        self.passes, self._until, self._fruitless = passes, until, 0

    @property
    def ended(self) -> bool:
        """Whether no more forms may begin."""
        return time.perf_counter() > self._until or self._fruitless >= FRUITLESS

    def count(self, forms: int, proved: Tensor) -> None:
        """Count `forms` forms for each of these images, of which `proved` are proved now."""
        for found in proved.tolist():
            self._fruitless = 0 if found else self._fruitless + forms


class _Proof:
    """Lower bounds of the margins of all images, raised stage by stage."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, threat: Threat) -> None:
        self._model, self._images, self._labels, self._threat = model, images, labels, threat
        self._bounds = NetworkBounds(model)
        start = torch.full((len(labels),), torch.inf, dtype=torch.float64, device=labels.device)
        self._lowest = torch.zeros(len(labels), 0, dtype=torch.float64, device=labels.device)
        self._smallest = -start
        self._seen = start
        self._finished = torch.zeros_like(start, dtype=torch.bool)

    @property
    def proved(self) -> Tensor:
        """Where the label's logit is above all others in the whole region."""
        return self._smallest > 0

    @property
    def unfinished(self) -> Tensor:
        """Neither proved, nor known to be misclassified, nor bounded as tightly as possible."""
        return ~self.proved & (self._seen > 0) & ~self._finished

    def by_intervals(self, part: slice, dtype: torch.dtype) -> None:
        """Bound images by intervals, and compare the bounds with logits of the network."""
        clean, labels = self._images[part], self._labels[part]
        found = self._through(part)
        box = found.logits
        batches = [clean.to(dtype), *_probes(clean, self._threat, dtype)]
        for logits in check_same(self._model, self._bounds.trace, batches):
            if not bool(((logits >= box.low) & (logits <= box.high)).all()):
                unshown("logits outside its bounds")
            lead = -margin(logits.double(), labels)
            self._seen[part] = torch.minimum(self._seen[part], lead)
        self._raise(part, found, affine=True)

    def by_forms(self, size: int, budget: _Budget) -> None:
        """Bound open images by forms that go back to the images, the most promising first."""
        places = self._open()
        forms = 2 * self._lowest.shape[1]
        if budget.passes < forms or not len(places):
            return
        one = self._through(places[:1])
        fitting = MEMORY // (bytes_of_image(one) + forms * one.bytes_of_form())
        for some in places.split(max(1, min(size, fitting))):
            if budget.ended:
                return
            self._raise(some, self._through(some))
            budget.count(forms, self.proved[some])

    def by_tighter_forms(self, budget: _Budget) -> None:
        """The same with hidden layers that are bounded by forms as well, image by image."""
        left = budget.passes - 4 * self._lowest.shape[1]
        for place in self._open().view(-1, 1):
            if budget.ended or left < 0:
                return
            found = tightened(self._bounds, self._through(place), forms=left, memory=MEMORY)
            if found.forms:
                self._raise(place, found.bounds)
            self._finished[place] = found.complete
            budget.count(found.forms, self.proved[place])

    def _through(self, places: Tensor | slice) -> Pass:
        region = around(self._images[places], self._threat)
        return self._bounds.through(region, rounding=True)

    def _open(self) -> Tensor:
        """Numbers of images that may still be proved, the largest margin first."""
        left = self.unfinished.nonzero()[:, 0]
        return left[self._smallest[left].argsort(descending=True, stable=True)]

    def _raise(self, places: Tensor | slice, found: Pass, *, affine: bool = False) -> None:
        """Each class may be excluded by another stage's bound."""
        labels = self._labels[places]
        margins = found.margins(labels, affine=affine, memory=MEMORY)
        raised = margins.scatter(1, labels[:, None], torch.inf)
        if bool((raised.amin(1) > self._seen[places]).any()):
            unshown("logits outside its bounds")
        if not self._lowest.shape[1]:
            shape = (len(self._labels), raised.shape[1])
            self._lowest = raised.new_full(shape, -torch.inf)
        self._lowest[places] = torch.maximum(self._lowest[places], raised)
        self._smallest[places] = self._lowest[places].amin(1)


def _probes(clean: Tensor, threat: Threat, dtype: torch.dtype) -> Iterator[Tensor]:
    """Images of the threat: all pixels up, all down, and two random ones."""
    drawn = torch.Generator().manual_seed(0)
    up = threat.project(clean + threat.eps, clean)
    down = threat.project(clean - threat.eps, clean)
    for images in (up, down, threat.uniform(clean, drawn), threat.corner(clean, drawn)):
        yield images.to(dtype)


def check_arithmetic(model: nn.Module, device: torch.device) -> None:
    """Raise `ConfigError` for arithmetic whose rounding bounds do not cover: float32 it must be."""
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
            raise unknown(f"weights in {value.dtype}")
        if type(value) not in (Tensor, nn.Parameter, nn.Buffer):
            raise unknown(f"weights of type {type(value).__name__}")
    if torch.is_autocast_enabled(device.type):
        raise unknown("passes under autocast")
    if reduced := _reduced_precision(device):
        raise ConfigError.expected(
            "bounds hold for float32 arithmetic alone", reduced, 'Set it to "ieee" or "highest".'
        )
    if _has_nnpack() and any(isinstance(layer, nn.Conv2d) for layer in model.modules()):
        raise unknown("a convolution by NNPACK, which transforms images first")


def _has_nnpack() -> bool:
    """Whether convolutions may be NNPACK's: oneDNN, where it is built in and on, comes first."""
    has_onednn = torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()
    return torch.backends.nnpack.is_available() and not has_onednn


def _reduced_precision(device: torch.device) -> str | None:
    """The setting of PyTorch, if any, by which layers compute float32 in fewer bits."""
    backends: Any = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):  # before PyTorch 2.9
        found = torch.get_float32_matmul_precision()
        return None if found == "highest" else f"a float32 matmul precision {found}"
    places = ("mkldnn.conv", "mkldnn.matmul") if device.type == "cpu" else ("cuda.matmul",)
    for place in places:
        found = attrgetter(f"{place}.fp32_precision")(backends)
        if found not in ("ieee", "none"):
            return f"torch.backends.{place}.fp32_precision {found}"
    return None


def around(images: Tensor, threat: Threat) -> Region:
    """A region that contains all images that the judge, in float32, allows in the threat."""
    if type(threat) not in (Linf, L2):
        raise ConfigError.expected("a certificate needs Linf or L2", type(itself(threat)).__name__)
    centre, far = images.double(), 2 * reach(threat, images) - threat.eps
    box = Box((centre - far).clamp_min(0), (centre + far).clamp_max(1))
    return Region(box, centre, far if isinstance(threat, L2) else None)
