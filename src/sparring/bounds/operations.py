"""What one operation of a network makes of intervals and of linear forms.

Each kind of operation is defined once. `ends` bounds its outputs by bounds of its inputs; it is
differentiable, in the arithmetic of the box. `slack` is the largest error of the network's own
computation in single precision. `back` turns linear forms in the outputs into forms in the inputs
that are never larger: the backward step of CROWN.

Shapes: B batch, R linear forms of each image, S one layer's input or output.
Sources: Gowal et al. 2018, "On the effectiveness of interval bound propagation"; Zhang et al. 2018,
"Efficient Neural Network Robustness Certification with General Activation Functions".
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from sparring.bounds.boxes import UNIT, Box
from sparring.errors import ConfigError

LEAST, LARGEST = 2.0**-126, 2.0**127
"""The least normal float32, and half of the largest."""

Linear = Callable[[Tensor], Tensor]
"""A linear function of the batch."""


class Forms(NamedTuple):
    """Lower bounds of linear forms in an operation's outputs."""

    inputs: Sequence[Tensor]
    """Forms in each of its inputs [B, R, *S]."""
    constant: Tensor | float = 0.0
    """What is added to their sum [B, R]."""


class Operation(ABC):
    """An operation on one or more tensors."""

    affine = False
    """Whether `back` loses nothing."""
    mixes = False
    """Whether forms may bound an output more tightly than the intervals of its inputs do."""

    @abstractmethod
    def ends(self, *inputs: Box) -> Box:
        """Bounds of the outputs in exact arithmetic."""

    def slack(self, output: Box, *inputs: Box) -> Tensor | None:
        """The largest rounding error of each output; `None` where nothing is rounded."""
        return None

    @abstractmethod
    def back(self, forms: Tensor, *inputs: Box) -> Forms:
        """Forms in the inputs that are at most these forms [B, R, *S] in the outputs."""


class Affine(Operation):
    """y = A x + b."""

    affine = True

    def __init__(  # noqa: PLR0913 - parts of one function
        self,
        linear: Linear,
        absolute: Linear,
        shift: Tensor | None = None,
        *,
        terms: int,
        transposed: Callable[[Tensor, torch.Size], Tensor] | None = None,
        summands: Tensor | None = None,
        mixes: bool = True,
    ) -> None:
        """`linear` is A x, `absolute` is |A| x; `shift` is b, without the images' dimension.

        Each output is a sum of at most `terms` products, in any order, and of b. `summands` are
        those of b, if b is a sum itself. `transposed` is A's transpose, of rows and of their size;
        by default it is found by autograd.
        """
        self._linear, self._absolute, self._shift = linear, absolute, shift
        self._terms, self._summands = terms, shift if summands is None else summands
        self._transposed = transposed or partial(_transposed, linear)
        self.mixes = mixes

    @override
    def ends(self, *inputs: Box) -> Box:
        middle, reach = inputs[0].centred
        middle = self._linear(middle)
        middle = middle if self._shift is None else middle + self._shift
        spread = self._absolute(reach)
        return Box(middle - spread, middle + spread)

    @override
    def slack(self, output: Box, *inputs: Box) -> Tensor:
        """Of a sum of n products at most n u / (1 - n u) of their absolute values, and underflow.

        Numbers below the least normal one may be taken for 0, before and after an operation.
        """
        largest, unit = inputs[0].largest, (self._terms + 2) * UNIT
        size = self._absolute(largest + LEAST / UNIT)
        size = size if self._summands is None else size + self._summands.abs()
        _check_range(size)
        lost = 4 * self._terms * LEAST * (1 + largest.amax())
        return unit / (1 - unit) * size + lost

    @override
    def back(self, forms: Tensor, *inputs: Box) -> Forms:
        constant = 0.0 if self._shift is None else (forms * self._shift).flatten(2).sum(2)
        return Forms([_by_rows(self._transposed, forms, inputs[0])], constant)


class Moved(Operation):
    """The same entries in another shape or order; each image keeps its own."""

    affine = True

    def __init__(self, function: Linear, *, ordered: bool) -> None:
        """`ordered` if entries keep their order."""
        self._function, self._ordered = function, ordered

    @override
    def ends(self, *inputs: Box) -> Box:
        return Box(*map(self._function, inputs[0]))

    @override
    def back(self, forms: Tensor, *inputs: Box) -> Forms:
        if self._ordered:
            return Forms([forms.reshape(*forms.shape[:2], *inputs[0].low.shape[1:])])
        return Forms([_by_rows(partial(_transposed, self._function), forms, inputs[0])])


class Sum(Operation):
    """The sum of two tensors of one shape."""

    affine = mixes = True

    @override
    def ends(self, *inputs: Box) -> Box:
        one, other = inputs
        return Box(one.low + other.low, one.high + other.high)

    @override
    def slack(self, output: Box, *inputs: Box) -> Tensor:
        one, other = inputs
        size = one.largest + other.largest
        _check_range(size)
        return 2 * UNIT * size + 4 * LEAST

    @override
    def back(self, forms: Tensor, *inputs: Box) -> Forms:
        return Forms([forms] * len(inputs))


class Relu(Operation):
    """max(0, x): where the sign of x is open, between a line below and a line above."""

    def __init__(self, *, flat: bool = False) -> None:
        """The line below is 0 if `flat`; by default it is x where x may be more above 0 than below.

        The default suits most networks, and 0 those that were trained by intervals.
        """
        self._flat = flat

    @override
    def ends(self, *inputs: Box) -> Box:
        return Box(*map(torch.relu, inputs[0]))

    @override
    def back(self, forms: Tensor, *inputs: Box) -> Forms:
        (x,) = inputs
        low, high = x.low.clamp_max(0), x.high.clamp_min(0)
        above = high / (high - low).clamp_min(torch.finfo(high.dtype).tiny)
        below = ((low == 0) & (high > 0) if self._flat else high > -low).to(high.dtype)
        negative = forms.clamp_max(0)
        constant = -(negative * (above * low)[:, None]).flatten(2).sum(2)
        return Forms([forms.clamp_min(0) * below[:, None] + negative * above[:, None]], constant)


class MaxPool(Operation):
    """The largest entry of each window."""

    def __init__(self, **settings: Any) -> None:
        """Settings as of `torch.nn.functional.max_pool2d`."""
        self._settings = settings

    def _pooled(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(x, **self._settings)

    @override
    def ends(self, *inputs: Box) -> Box:
        return Box(*map(self._pooled, inputs[0]))

    @override
    def back(self, forms: Tensor, *inputs: Box) -> Forms:
        """At least the entry with the largest lower bound; at most that, or the upper bound."""
        (x,) = inputs
        low, places = functional.max_pool2d(x.low, **self._settings, return_indices=True)
        certain = self._others(x.high, places) <= low
        negative = forms.clamp_max(0)
        chosen = forms.clamp_min(0) + negative * certain[:, None]
        constant = (negative * (self._pooled(x.high) * ~certain)[:, None]).flatten(2).sum(2)
        back = forms.new_zeros(*forms.shape[:3], x.low.shape[-2] * x.low.shape[-1])
        where = places.flatten(2)[:, None].expand(*forms.shape[:3], -1)
        back = back.scatter_add(3, where, chosen.flatten(3))
        return Forms([back.view(*forms.shape[:2], *x.low.shape[1:])], constant)

    def _others(self, x: Tensor, places: Tensor) -> Tensor:
        """The largest entry of each window but that at `places`; inf where that is not known."""
        settings, inf = self._settings, torch.inf
        if settings["ceil_mode"]:
            return torch.full_like(places, inf, dtype=x.dtype)
        kernel, edge, apart = (
            _pair(settings[name]) for name in ("kernel_size", "padding", "dilation")
        )
        step = _pair(settings["stride"])
        numbers = torch.arange(x[0, 0].numel(), device=x.device, dtype=x.dtype).view(x.shape[-2:])

        def windows(values: Tensor) -> Tensor:
            values = functional.pad(values, (edge[1], edge[1], edge[0], edge[0]), value=-inf)
            found = functional.unfold(values, kernel, apart, 0, step)
            return found.view(len(values), values.shape[1], -1, *places.shape[2:])

        own = windows(numbers.expand(1, 1, -1, -1)) == places[:, :, None]
        return windows(x).masked_fill(own, -inf).amax(2)


def _check_range(size: Tensor) -> None:
    """Refuse sums that may overflow single precision, whose error is then infinite."""
    if not bool((size < LARGEST).all()):
        raise unknown("values beyond the range of float32")


def unknown(what: str) -> ConfigError:
    """The error for an operation without a bound."""
    return ConfigError(f"bounds need a rule for every operation; none is known for {what}.")


def _by_rows(transposed: Callable[[Tensor, torch.Size], Tensor], forms: Tensor, x: Box) -> Tensor:
    """Forms in the inputs, by the transpose of a linear function."""
    rows = forms.flatten(0, 1)
    found = transposed(rows, torch.Size((len(rows), *x.low.shape[1:])))
    return found.view(*forms.shape[:2], *x.low.shape[1:])


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def _transposed(function: Linear, rows: Tensor, size: torch.Size) -> Tensor:
    """The transpose of a linear function of tensors of this size, applied to `rows`."""
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        at = torch.zeros(size, dtype=rows.dtype, device=rows.device, requires_grad=True)
        return torch.autograd.grad(function(at), at, rows, create_graph=keep)[0]
