"""A GPU beside the CPU: the same results within stated limits, then how fast, in eight minutes.

    python benchmarks/gpu.py                        # on the first CUDA device
    python benchmarks/gpu.py --device cpu --small   # all that needs no GPU, in seconds

Compared are logits, gradients, attacks, updates, every kind of attack with its judge, certificates,
and batches that a worker attacks, all by the library and with convolutions in float32. Then a step
of PGD is timed, in plain PyTorch and by the library, in float32, TF32 and bf16, and with its steps
captured in a CUDA graph; and the attacks of `standard` beside the plain step. Times are medians, by
CUDA events and after warm-up calls; memory is the peak of PyTorch's allocator. Images are drawn, or
the bundled MNIST.

A part that would not be over after `--minutes` is left out and named. An error ends its part only.
The exit code is 1 if a comparison fails or is missing, or if a part ended in an error.

Units: pixels in [0, 1], seconds, bytes.
"""

import argparse
import copy
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fast_path import EPS, plain_step
from sparring.attacks import APGD, FAB, PGD, Classifier, Linf, Square
from sparring.attacks.losses import bound
from sparring.attacks.search import no_trace
from sparring.data import load_dataset
from sparring.engine import FixedLag
from sparring.engine.engine import TRAINER
from sparring.errors import ConfigError
from sparring.evaluation import Progress, Suite, evaluate
from sparring.evaluation.certificates import certificate
from sparring.loader import Asynchronous, Fresh, SourceKind
from sparring.models import PaperNetwork, Precision, chosen_device, single_precision, working_copy
from sparring.models.networks import ResidualNetwork, preact_resnet_18
from sparring.records import describe
from sparring.records.files import write_atomically
from sparring.studies.recipes import PlainNetwork
from sparring.training import SGD, TrainConfig, Trainer

WARM_UP = 3
"""Calls before the first that is timed: they allocate memory and choose kernels."""
ROUNDS = 5
"""Most times that go into a median."""
SHORT, LONG = 0.05, 2.0
"""Least seconds of calls that are timed together; seconds within which rounds begin."""
STEPS = 4
"""Steps of the attack that is timed; checks once an attack are divided among them."""
TENTH = 360
"""About the passes of one image in `of_standard`, in each precision."""
PLAIN = "plain, float32"
"""The contestant that others are compared with."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is compared and timed."""

    images: int
    steps: int
    training: int
    updates: int
    attacks: int
    batches: tuple[int, ...]
    evaluated: int
    """The batch at which the attacks of `standard` are timed."""


FULL = Size(
    images=64,
    steps=8,
    training=60,
    updates=8,
    attacks=5,
    batches=(128, 256, 512, 1024, 2048, 4096),
    evaluated=512,
)
SMALL = Size(images=4, steps=2, training=1, updates=3, attacks=2, batches=(4,), evaluated=4)


class Case(NamedTuple):
    """A network with its first weights."""

    name: str
    plain: nn.Module
    """As one would write it."""
    own: nn.Module
    """The library's, of the same weights."""
    shape: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One number that must stay within a limit."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether it does; NaN does not."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How long one step of a batch takes."""

    network: str
    batch: int
    what: str
    seconds: float
    memory: int
    """Most bytes that were allocated at one time; 0 if not measured."""

    @property
    def images_per_second(self) -> float:
        """Images of the batch over its time."""
        return self.batch / self.seconds


@dataclass(kw_only=True)
class Kit:
    """The device, the time that is left, and what was found."""

    device: torch.device
    size: Size
    until: float
    comparisons: list[Comparison] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Comparisons that were not made, and parts that ended in an error."""

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.perf_counter()

    def compare(self, what: str, value: float, limit: float, *, at_least: bool = False) -> None:
        """Add a comparison."""
        self.comparisons.append(
            Comparison(what=what, value=float(value), limit=limit, at_least=at_least)
        )

    def leave_out(self, what: str) -> None:
        """Name something that is not measured, once."""
        if what not in self.left_out:
            self.left_out.append(what)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """An error ends the block, and nothing else."""
        print(f"{self.left:4.0f} s left: {name}", flush=True)
        try:
            yield
        except Exception as error:  # the rest is still worth its time
            traceback.print_exc()
            self.missing.append(f"{name}: {type(error).__name__}: {error}".splitlines()[0])
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def line(found: Comparison) -> str:
    rule = "at least" if found.at_least else "at most"
    verdict = "" if found.passed else "  FAILED"
    return f"{found.what:76} {found.value:9.3g}, {rule} {found.limit:g}{verdict}"


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=seeded())


def networks(size: Size) -> list[Case]:
    """The paper's network and PreAct-ResNet-18; for a small size a small ResNet."""
    plain, paper = (
        kind(initialisation="torch").build(0).eval() for kind in (PlainNetwork, PaperNetwork)
    )
    torch.manual_seed(0)
    residual = preact_resnet_18(3, 10)
    name = "PreAct-ResNet-18"
    if size is SMALL:
        paper = plain  # whose forms on a CPU take seconds to compile
        residual = ResidualNetwork(3, 10, stem=4, stages=((4, 1), (8, 1)))
        name = "a small ResNet"
    residual.eval()
    return [
        Case("the paper's CNN", plain, paper, (1, 28, 28)),
        Case(name, residual, residual, (3, 32, 32)),
    ]


# -- agreement ------------------------------------------------------------------------------------


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest number."""
    wanted = wanted.double().cpu()
    return float((found.double().cpu() - wanted).abs().max() / wanted.abs().max())


def gradient(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(model(images), labels, reduction="sum"), images)[0]


def of_passes(kit: Kit, case: Case) -> None:
    """Logits, gradients and attacks of the same weights and images, layer by layer."""
    here, there = case.plain, copy.deepcopy(case.plain).to(kit.device)
    images = drawn(kit.size.images, *case.shape)
    given = images.to(kit.device)
    with torch.no_grad():
        wanted, found = here(images), there(given)
        rounded = working_copy(there, "bf16").attacked(given)
    labels = wanted.argmax(1)
    classes = labels.to(kit.device)
    largest = "largest difference / largest"
    kit.compare(f"{case.name}: logits in float32, {largest}", apart(found, wanted), 1e-4)
    kit.compare(f"{case.name}: logits in bf16, {largest}", apart(rounded, wanted), 0.1)
    one, other = gradient(here, images, labels), gradient(there, given, classes).cpu()
    off = float((other - one).norm() / one.norm())
    kit.compare(f"{case.name}: gradients in float32, norm of the difference / norm", off, 0.05)
    attack = PGD(Linf(EPS / 10), steps=kit.size.steps)
    # Rounding turns signs, and a turned one others: two CPU kernels agree on 0.84 in float32.
    for dtype, share in ((torch.float64, 0.99), (torch.float32, 0.6)):
        models = [copy.deepcopy(each).to(dtype) for each in (here, there)]
        sides = zip(models, (images, given), (labels, classes), strict=True)
        ends = [attack(model, x.to(dtype), y, generator=seeded()).cpu() for model, x, y in sides]
        same = float(((ends[0] - ends[1]).abs() < 1e-6).double().mean())
        what = f"{case.name}: {attack.steps} steps of PGD in {str(dtype)[6:]}"
        kit.compare(f"{what}, share of equal pixels", same, share, at_least=True)
        with torch.no_grad():
            losses = [float(cross_entropy(models[0](end), labels)) for end in ends]
        kit.compare(f"{what}, difference of the loss / loss", abs(losses[1] / losses[0] - 1), 1e-3)


def weights(network: nn.Module) -> Tensor:
    return torch.cat([value.detach().cpu().double().flatten() for value in network.parameters()])


class Trained(NamedTuple):
    """Weights before and after some updates."""

    before: Tensor
    after: Tensor
    attackers: list[str]
    """For each batch, the names of the workers that attacked it; empty without an engine."""


def trained(kit: Kit, device: torch.device, precision: Precision, source: SourceKind) -> Trained:
    """The paper's network on MNIST."""
    config = TrainConfig(
        model=PaperNetwork(initialisation="torch"),
        attack=PGD(Linf(0.1), steps=4),
        optimizer=SGD(learning_rate=0.02),
        batch_size=kit.size.images,
        updates=kit.size.updates,
        precision=precision,
        source=source,
    )
    trainer = Trainer(config, load_dataset("mnist"), device)
    before, attackers = weights(trainer.network), list[str]()
    with trainer.loader, single_precision():
        for batch in trainer.loader:
            attackers.append(str(trainer.loader.figures().get("worker", "")))
            trainer.update(batch)
    return Trained(before, weights(trainer.network), attackers)


def of_updates(kit: Kit) -> None:
    """Weights after the same updates."""
    here = trained(kit, torch.device("cpu"), "fp32", Fresh())
    way = (here.after - here.before).norm()
    limits: dict[Precision, float] = {"fp32": 0.05, "bf16": 0.3}
    for precision, limit in limits.items():
        there = trained(kit, kit.device, precision, Fresh())
        what = f"{kit.size.updates} updates in {precision}, distance of the weights / way"
        kit.compare(what, float((there.after - here.after).norm() / way), limit)


def of_workers(kit: Kit) -> None:
    """Weights of batches that a worker attacked, and of the same that the trainer attacked."""
    kind = Asynchronous(workers=0, policy=FixedLag(lag=2))
    alone = trained(kit, kit.device, "fp32", kind)
    beside = trained(kit, kit.device, "fp32", replace(kind, workers=1, helps=False))
    off = (beside.after - alone.after).norm() / (alone.after - alone.before).norm()
    same = "the same bits" if torch.equal(beside.after, alone.after) else "other bits"
    what = f"{kit.size.updates} updates with a worker, distance / way ({same})"
    kit.compare(what, float(off), 0.02)
    own = sum(str(TRAINER) in names for names in beside.attackers)
    kit.compare("the same: batches that no worker attacked", own, 0)


def taught(network: nn.Module, images: Tensor, labels: Tensor, updates: int) -> nn.Module:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for some, right in zip(images.split(64)[:updates], labels.split(64), strict=False):
        optimizer.zero_grad()
        cross_entropy(network(some), right).backward()
        optimizer.step()
    return network.eval()


def of_evaluation(kit: Kit) -> None:
    """Every kind of attack, judged on both devices, image by image."""
    data = load_dataset("mnist")
    network = PlainNetwork(initialisation="torch").build(0)
    taught(network, *data.train.batch(torch.arange(64 * kit.size.training)), kit.size.training)
    images, labels = data.test.batch(torch.arange(2 * kit.size.images))
    attacks = (
        PGD(steps=10),
        APGD(steps=20),
        APGD(steps=10, loss="dlr", targets=3),
        FAB(steps=10, targets=3),
        Square(queries=200),
    )
    suite = Suite(name="every attack", summary="", attacks=attacks[: kit.size.attacks])
    here, there = (
        evaluate(network, images, labels, Linf(0.05), suite=suite, checks=False, device=device)
        for device in ("cpu", str(kit.device))
    )
    total, few = len(labels), max(1.0, 0.03 * len(labels))
    natural = abs(here.natural.successes - there.natural.successes)
    kit.compare(f"evaluation of {total} images: difference of the right ones", natural, 1)
    kit.compare(
        f"evaluation: difference of the robust ones ({here.robust.successes} on the CPU)",
        abs(here.robust.successes - there.robust.successes),
        few,
    )
    sides = (here.outcomes.broken_by, there.outcomes.broken_by)
    broken = torch.tensor([[one is not None for one in side] for side in sides])
    kit.compare(
        "evaluation: images broken on one of the two", int((broken[0] ^ broken[1]).sum()), few
    )
    assert there.adversarial is not None  # without `resume` all are kept
    beyond = (there.adversarial - images).abs().flatten(1).amax(1) > 0.05 + 1e-6
    kit.compare("evaluation: adversarial images beyond the threat", int(beyond.sum()), 0)
    with torch.no_grad():
        again = network(there.adversarial).argmax(1) != labels
    kit.compare(
        "evaluation: broken there and not by the same image here",
        int((broken[1] & ~again).sum()),
        few,
    )


def of_certificates(kit: Kit) -> None:
    """Images proved robust on either device, by intervals and linear relaxation."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 4, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(8 * 13 * 13, 10)).eval()
    images = drawn(kit.size.images, 1, 28, 28)
    with torch.no_grad():
        labels = network(images).argmax(1)
    here = certificate(network, images, labels, Linf(0.004))
    there = certificate(network.to(kit.device), images, labels, Linf(0.004))
    other = int((here.proved ^ there.proved).sum())
    what = f"certificates: images proved on one of the two ({int(here.proved.sum())} on the CPU)"
    kit.compare(what, other, 1)


# -- the steps of an attack in a CUDA graph --------------------------------------------------------


class CapturedAttack:
    """The steps of PGD as one CUDA graph, for one shape of images and the present weights.

    The logits are not checked in between, which would wait for the GPU. A working copy that derives
    its weights anew, as after an update, has others than the graph.
    """

    def __init__(self, attack: PGD, model: Classifier, images: Tensor, labels: Tensor) -> None:
        self._attack, self._model = attack, model
        self._images, self._labels = images.clone(), labels.clone()
        self._start = images.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._steps()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._end = self._steps()

    def _steps(self) -> Tensor:
        with no_trace(self._model):
            loss_of = bound(self._attack.loss, self._model, self._images, self._labels)
            x = self._start
            for _ in range(self._attack.steps):
                x = self._attack.step(self._model, x, self._images, loss_of)
            return x

    def __call__(self, start: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """The end of the search, which the next call overwrites."""
        self._start.copy_(start)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._end


def of_capture(kit: Kit, case: Case) -> None:
    """A captured attack on other images than those of its capture."""
    network = copy.deepcopy(case.plain).to(kit.device)
    images = drawn(2 * kit.size.images, *case.shape).to(kit.device)
    labels = torch.arange(len(images), device=kit.device) % 10
    attack = PGD(Linf(EPS), steps=STEPS, start="none")
    for precision in ("fp32", "bf16"):
        model = working_copy(network, precision).attacked
        first, second = images.chunk(2)
        captured = CapturedAttack(attack, model, first, labels[: len(first)])
        rest = (second, labels[len(first) :])
        ends = [captured(second, *rest), attack.search_from(second, model, *rest)]
        with torch.no_grad():
            losses = [float(cross_entropy(network(end), rest[1])) for end in (*ends, second)]
        what = f"{case.name}: captured in {precision}, difference of what the loss rises"
        rise = losses[1] - losses[2]
        kit.compare(f"{what} / rise", abs(losses[0] - losses[1]) / abs(rise), 0.02)


# -- throughput -----------------------------------------------------------------------------------


@contextmanager
def arithmetic(*, tf32: bool = False, tuned: bool = False) -> Iterator[None]:
    """Convolutions and products in TF32 or float32; `tuned` lets cuDNN time its algorithms."""
    before = (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision())
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.benchmark = tuned
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])
        torch.backends.cudnn.benchmark = False


def elapsed(device: torch.device, call: Callable[[], object], times: int) -> float:
    """Seconds of one of these calls, by the clock of the device."""
    if device.type != "cuda":
        begun = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - begun) / times
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(times):
        call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000 / times


def time_it(kit: Kit, case: Case, what: str, batch: int, call: Callable[[], object]) -> None:
    """Add the median time of a step, where `call` makes `STEPS` of them."""
    cuda = kit.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    once = min(elapsed(kit.device, call, 1) for _ in range(WARM_UP if cuda else 1))
    memory = torch.cuda.max_memory_allocated() if cuda else 0
    times = max(1, min(50, round(SHORT / max(once, 1e-9)))) if cuda else 1
    rounds = max(1, min(ROUNDS, int(LONG / max(times * once, 1e-9))))
    found = statistics.median(elapsed(kit.device, call, times) for _ in range(rounds))
    kit.speeds.append(
        Speed(network=case.name, batch=batch, what=what, seconds=found / STEPS, memory=memory)
    )


def plain_steps(network: nn.Module, start: Tensor, images: Tensor, labels: Tensor) -> None:
    for _ in range(STEPS):
        start = plain_step(network, start, images, labels)


def autocast_steps(network: nn.Module, start: Tensor, images: Tensor, labels: Tensor) -> None:
    with torch.autocast(images.device.type, torch.bfloat16):
        plain_steps(network, start, images, labels)


Make = Callable[[], Callable[[], object]]


def contestants(kit: Kit, case: Case, batch: int) -> Iterator[tuple[str, dict[str, bool], Make]]:
    """Names, arithmetic, and functions that prepare a call of `STEPS` steps."""
    device = kit.device
    images = drawn(batch, *case.shape).to(device)
    labels = torch.arange(batch, device=device) % 10
    plain, own = (copy.deepcopy(each).to(device) for each in (case.plain, case.own))
    attack = PGD(Linf(EPS), steps=STEPS, step_size=0.1)
    by_hand = partial(plain_steps, plain, images, images, labels)
    yield PLAIN, {}, lambda: by_hand
    if device.type == "cuda":
        yield "plain, TF32", {"tf32": True}, lambda: by_hand
        yield "plain, TF32, cudnn.benchmark", {"tf32": True, "tuned": True}, lambda: by_hand
    rows = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    last = images.contiguous(memory_format=torch.channels_last)
    autocast = partial(autocast_steps, rows, last, images, labels)
    yield "plain, bf16 autocast, channels-last", {}, lambda: autocast
    precisions: dict[str, Precision] = {"float32": "fp32", "bf16": "bf16"}
    for name, precision in precisions.items():
        passes = working_copy(own, precision).attacked
        ours = partial(attack.search_from, images, passes, images, labels)
        yield f"library, {name}", {}, lambda ours=ours: ours
        if device.type == "cuda":
            yield f"library, {name}, cudnn.benchmark", {"tuned": True}, lambda ours=ours: ours
            graph = partial(CapturedAttack, attack, passes, images, labels)
            yield (
                f"library, {name}, CUDA graph",
                {"tuned": True},
                lambda graph=graph: partial(graph(), images, images, labels),
            )


def of_steps(kit: Kit, case: Case, batch: int) -> None:
    """A step of PGD in plain PyTorch and by the library."""
    if kit.device.type != "cuda":
        kit.leave_out("CUDA graphs, TF32 and cudnn.benchmark: they need CUDA")
    for what, settings, make in contestants(kit, case, batch):
        with arithmetic(**settings):
            try:
                time_it(kit, case, what, batch, make())
            except torch.OutOfMemoryError:
                kit.leave_out(f"{case.name}, {what}, batch {batch}: out of memory")
        if kit.device.type == "cuda":
            torch.cuda.empty_cache()


def of_standard(kit: Kit, case: Case, batch: int) -> None:
    """The attacks of `standard` at a tenth of their passes, on images that none of them breaks."""
    images = drawn(batch, *case.shape)
    network = copy.deepcopy(case.own).to(kit.device)
    with torch.no_grad():
        labels = network(images.to(kit.device)).argmax(1).cpu()
    attacks = (
        APGD(steps=10),
        APGD(steps=10, loss="dlr", targets=9),
        FAB(steps=10),
        Square(queries=500),
    )
    suite = Suite(name="a tenth", summary="", attacks=attacks[: kit.size.attacks])
    precisions: tuple[Precision, ...] = ("fp32", "auto")
    for precision in precisions:
        seen: list[Progress] = []
        evaluate(
            network,
            images,
            labels,
            Linf(1e-6),
            suite=suite,
            precision=precision,
            checks=False,
            batch_size=batch,
            progress=seen.append,
        )
        last = seen[-1]
        kit.speeds.append(
            Speed(
                network=case.name,
                batch=batch,
                what=f"library, attacks of standard, {precision}",
                seconds=last.spent / last.effort * batch,
                memory=0,
            )
        )


# -- all of it ------------------------------------------------------------------------------------


def compare_all(kit: Kit, cases: Sequence[Case]) -> None:
    parts: dict[str, Callable[[], None]] = {
        **{f"passes of {case.name}": lambda case=case: of_passes(kit, case) for case in cases},
        "updates": lambda: of_updates(kit),
        "evaluation": lambda: of_evaluation(kit),
        "certificates": lambda: of_certificates(kit),
        "asynchronous workers": lambda: of_workers(kit),
    }
    if kit.device.type == "cuda":
        for case in cases:
            parts[f"CUDA graph of {case.name}"] = lambda case=case: of_capture(kit, case)
    for name, make in parts.items():
        if kit.left <= 0:
            kit.missing.append(f"{name}: no time left")
            continue
        with kit.part(name), single_precision():
            make()


def time_all(kit: Kit, cases: Sequence[Case]) -> None:
    """Batch by batch; one that would not be over in time is left out."""
    for case in cases:
        took = 0.0
        for before, batch in zip((0, *kit.size.batches), kit.size.batches, strict=False):
            needed = took * (batch / before if before else 1)
            if kit.left <= needed:
                kit.leave_out(f"{case.name} at batches of {batch} and more: no time left")
                break
            begun = time.perf_counter()
            with kit.part(f"steps of {case.name}, batch {batch}"):
                of_steps(kit, case, batch)
            took = time.perf_counter() - begun
            if batch == kit.size.evaluated:
                plain = next(row for row in reversed(kit.speeds) if row.what == PLAIN)
                if kit.left <= 4 * TENTH * plain.seconds:
                    kit.leave_out(f"{case.name}, attacks of standard: no time left")
                    continue
                with kit.part(f"attacks of standard on {case.name}, batch {batch}"):
                    of_standard(kit, case, batch)


def table(kit: Kit) -> Iterator[str]:
    """All speeds, beside plain PyTorch in float32 at the same batch."""
    plain = {(row.network, row.batch): row.seconds for row in kit.speeds if row.what == PLAIN}
    for network in dict.fromkeys(row.network for row in kit.speeds):
        yield f"\n{network}: one step, forward and backward"
        yield f"{'':38} {'batch':>6} {'ms':>9} {'images/s':>10} {'GB':>6} {'times':>6}"
        for row in sorted(
            (row for row in kit.speeds if row.network == network), key=lambda row: row.batch
        ):
            ratio = plain.get((network, row.batch), float("nan")) / row.seconds
            yield (
                f"{row.what:38} {row.batch:6} {1000 * row.seconds:9.2f} "
                f"{row.images_per_second:10.0f} {row.memory / 1e9:6.2f} {ratio:6.2f}"
            )


def facts(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on."""
    cuda = device.type == "cuda"
    name = f"cuda ({torch.cuda.get_device_name(device)})" if cuda else "cpu"
    about = describe(threads=torch.get_num_threads(), device=name, precision="as named")
    found: dict[str, Any] = asdict(about)
    if cuda:
        known = torch.cuda.get_device_properties(device)
        found |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "capability": f"{known.major}.{known.minor}",
            "device_bytes": known.total_memory,
        }
    return found


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small networks and batches")
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing after these")
    parser.add_argument("--out", type=Path, default=Path("build/gpu.json"), metavar="FILE")
    asked = parser.parse_args(words)
    try:
        device = chosen_device(asked.device)
    except ConfigError as error:
        print(f"{error} --device cpu --small tries this script without one.", file=sys.stderr)
        return 2
    if device.type == "cuda":
        torch.cuda.set_device(device)
    kit = Kit(
        device=device,
        size=SMALL if asked.small else FULL,
        until=time.perf_counter() + 60 * asked.minutes,
    )
    about, cases = facts(device), networks(kit.size)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    compare_all(kit, cases)
    time_all(kit, cases)
    print("\n".join(["\nagreement with the CPU", *map(line, kit.comparisons), *table(kit)]))
    for words_of, title in ((kit.left_out, "left out"), (kit.missing, "missing")):
        for one in words_of:
            print(f"{title}: {one}")
    found = {
        "environment": about,
        "comparisons": [{**asdict(row), "passed": row.passed} for row in kit.comparisons],
        "speeds": [asdict(row) for row in kit.speeds],
        "left_out": kit.left_out,
        "missing": kit.missing,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(asked.out, json.dumps(found, indent=2).encode())
    print(f"wrote {asked.out}")
    failed = [row for row in kit.comparisons if not row.passed]
    return 1 if failed or kit.missing else 0


if __name__ == "__main__":
    sys.exit(main())
