"""The suite `standard` beside torchattacks, image by image, on the same images and threads.

    pip install --no-deps torchattacks==3.5.1; pip install scipy tqdm requests
    python benchmarks/agreement.py runs/fast-0 runs/fgsm --images 1000 --table agreement.jsonl

Both run APGD-CE, targeted APGD-DLR (9 targets), targeted FAB (9 targets) and Square (5,000 queries)
with AutoAttack's parameters, in single precision, each attack on the images that those before it
left; an image counts as broken where the network errs on a version within the threat + 1e-6 and
within [0, 1]. They take turns, 128 images at a time (`--chunk`). What each found and how long it
took goes to a table, a line of JSON each; lines that are there already are not computed again, so
that it may be stopped and started at will. With one thread times are those of the processor, which
other programs on the machine change little; with more they are those of the clock. At the end it
prints what agrees, what does not and the speed.

`theirs` attacks the network as PyTorch computes it, layer by layer: that is what their user waits
for, and what speed is measured against. `theirs-by-frequencies` is the same attacks on the network
as our own attacks may see it, the same function in single precision at half the cost: it compares
what the attacks find, on many images, and its times mean nothing.

    python benchmarks/agreement.py runs/fast-0 --again --table agreement.jsonl

attacks the images on which the two disagree again, each from ten other random starts by both
sides, and prints in how many of the ten it broke: whether they disagree by chance or by what they
can do.
"""

import argparse
import hashlib
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparring.attacks import Linf, Threat
from sparring.data import load_dataset
from sparring.evaluation import Progress, evaluate
from sparring.models import computing_threads, trained_network, working_copy
from sparring.records import RunDirectory, describe

TIMES = 10
"""Random starts for an image on which both sides disagree."""
ATTACKS = ("apgd-ce", "apgd-t", "fab-t", "square")
CERTIFICATE = "certificate"
Row = dict[str, Any]


def clock() -> float:
    """Seconds of the processor with one thread, else of the clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def theirs(net: nn.Module, eps: float) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """The four attacks of torchattacks, with AutoAttack's parameters."""
    rival: Any = import_module("torchattacks")  # only where that side is asked for

    shared = {"norm": "Linf", "eps": eps, "n_restarts": 1, "seed": 0}
    return {
        "apgd-ce": rival.APGD(net, **shared, steps=100, loss="ce", rho=0.75),
        "apgd-t": rival.APGDT(net, **shared, steps=100, rho=0.75, n_classes=10),
        "fab-t": rival.FAB(
            net,
            **shared,
            steps=100,
            alpha_max=0.1,
            eta=1.05,
            beta=0.9,
            multi_targeted=True,
            n_classes=10,
        ),
        "square": rival.Square(
            net, **shared, n_queries=5000, p_init=0.8, loss="margin", resc_schedule=False
        ),
    }


class ByFrequencies(nn.Module):
    """A network whose passes are computed as our own attacks compute them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self._copy = working_copy(net, "fp32")

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self._copy.attacked(images)


def attacked_by_frequencies(
    net: nn.Module, threat: Threat, images: Tensor, labels: Tensor
) -> Iterator[tuple[str, list[int], float]]:
    """As `attacked_by_them`, with cheaper passes."""
    yield from attacked_by_them(net, threat, images, labels, seen=ByFrequencies(net).eval())


def attacked_by_them(
    net: nn.Module,
    threat: Threat,
    images: Tensor,
    labels: Tensor,
    *,
    seen: nn.Module | None = None,
) -> Iterator[tuple[str, list[int], float]]:
    """Attack after attack: what it broke, as the network itself judges, and its seconds."""
    attacks = theirs(seen or net, threat.eps)
    with torch.no_grad():
        robust = (net(images).argmax(1) == labels).nonzero().flatten()
    for name in ATTACKS:
        begun, broken = clock(), torch.zeros(len(robust), dtype=torch.bool)
        if len(robust):
            clean = images[robust]
            found = attacks[name](clean, labels[robust])
            with torch.no_grad():
                broken = net(found).argmax(1) != labels[robust]
            broken &= (threat.distance(found, clean) <= threat.eps + 1e-6).flatten()
            broken &= ((found >= 0) & (found <= 1)).flatten(1).all(1)
        yield name, robust[broken].tolist(), clock() - begun
        robust = robust[~broken]


def attacked_by_us(
    net: nn.Module, threat: Threat, images: Tensor, labels: Tensor
) -> Iterator[tuple[str, list[int], float]]:
    """The same by `sparring.evaluate`, after the certificate and all preparations."""
    spent = defaultdict[str, float](float)
    last = clock()

    def watch(now: Progress) -> None:
        nonlocal last
        spent[now.attack] += clock() - last
        last = clock()

    verdict = evaluate(
        net,
        images,
        labels,
        threat,
        suite="standard",
        precision="fp32",
        checks=False,
        progress=watch,
    )
    yield CERTIFICATE, [], spent[CERTIFICATE]
    by = verdict.outcomes.broken_by
    for name, result in zip(ATTACKS, verdict.evaluation.attacks, strict=True):
        broken = [place for place, attack in enumerate(by) if attack == result.name]
        yield name, broken, spent[result.name]


SIDES = {
    "ours": attacked_by_us,
    "theirs": attacked_by_them,
    "theirs-by-frequencies": attacked_by_frequencies,
}


def chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Where each chunk begins and ends."""
    for first in range(0, total, size):
        yield first, min(first + size, total)


def known(table: Path) -> list[Row]:
    """The lines of a table."""
    return [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []


def fill(table: Path, asked: argparse.Namespace) -> None:
    """Compute what the table does not hold."""
    test = load_dataset("mnist").test
    threat, runs, sides = Linf(eps=asked.eps), asked.runs, asked.sides
    there = {(row["run"], row["side"], row["first"], row["last"]) for row in known(table)}
    facts = describe(threads=torch.get_num_threads(), device="cpu", precision="fp32")
    for first, last in chunks(asked.images, asked.chunk):
        for run in runs:
            net = trained_network(RunDirectory(run)).requires_grad_(requires_grad=False)
            images, labels = test.batch(torch.arange(first, last))
            with torch.no_grad():
                wrong = (net(images).argmax(1) != labels).nonzero().flatten().tolist()
            for side in sides:
                if (run.name, side, first, last) in there:
                    continue
                row: Row = {"run": run.name, "side": side, "first": first, "last": last}
                row |= {
                    "processor": facts.processor,
                    "threads": facts.threads,
                    "torch": facts.torch,
                    "weights": hashlib.sha256(RunDirectory(run).weights.read_bytes()).hexdigest(),
                }
                row["wrong"] = [first + place for place in wrong]
                row["broken"], row["seconds"] = {}, {}
                for name, broken, seconds in SIDES[side](net, threat, images, labels):
                    row["broken"][name] = [first + place for place in broken]
                    row["seconds"][name] = round(seconds, 2)
                with table.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(run.name, side, first, row["broken"], row["seconds"], flush=True)


def summary(rows: Sequence[Row], run: str, rival: str) -> Iterator[str]:
    """What both sides found on the chunks of a run that both have attacked."""
    sides = ("ours", rival)
    by_side = {
        side: {row["first"]: row for row in rows if row["run"] == run and row["side"] == side}
        for side in sides
    }
    both = sorted(by_side["ours"].keys() & by_side[rival].keys())
    if not both:
        return
    total = sum(by_side["ours"][first]["last"] - first for first in both)
    wrong = {place for first in both for place in by_side["ours"][first]["wrong"]}
    yield f"{run}, ours and {rival}: {total} images, natural {1 - len(wrong) / total:.2%}"
    gone = {side: set(wrong) for side in sides}
    seconds = dict.fromkeys(sides, 0.0)
    for name in (CERTIFICATE, *ATTACKS):
        took = dict.fromkeys(sides, 0.0)
        for side, found in by_side.items():
            for first in both:
                gone[side] |= set(found[first]["broken"].get(name, []))
                took[side] += found[first]["seconds"].get(name, 0.0)
            seconds[side] += took[side]
        yield f"  after {name:11s}" + compared(gone, took, total)
    yield f"  in all           {compared(gone, seconds, total)}"
    for side, other in (sides, sides[::-1]):
        alone = sorted(gone[side] - gone[other])
        yield f"  broken by {side} alone: {alone or 'none'}"


def compared(gone: dict[str, set[int]], seconds: dict[str, float], total: int) -> str:
    """One line: robust images and seconds of both sides, and the ratio of the times."""
    (us, ours), (them, theirs) = gone.items()
    ratio = seconds[them] / seconds[us] if seconds[us] else float("nan")
    return (
        f" robust ours {total - len(ours):4d} theirs {total - len(theirs):4d}"
        f"   seconds ours {seconds[us]:7.1f} theirs {seconds[them]:7.1f}  {ratio:5.2f}x"
    )


def disputed(rows: Sequence[Row], run: str) -> list[int]:
    """Images that one side broke and the other did not, of those that both have attacked."""
    seen = [row for row in rows if row["run"] == run]
    gone = {
        (row["side"], row["first"]): set(row["wrong"]).union(*row["broken"].values())
        for row in seen
    }
    ours = {first: broken for (side, first), broken in gone.items() if side == "ours"}
    different = [
        broken ^ ours[first]
        for (side, first), broken in gone.items()
        if side != "ours" and first in ours
    ]
    return sorted(set().union(*different))


def again(run: Path, places: Sequence[int], threat: Threat) -> None:
    """Attack images from other starts and print how often each side breaks them."""
    net = trained_network(RunDirectory(run)).requires_grad_(requires_grad=False)
    images, labels = load_dataset("mnist").test.batch(torch.tensor(places).repeat_interleave(TIMES))
    for side in ("ours", "theirs-by-frequencies"):
        found = torch.zeros(len(labels), dtype=torch.bool)
        for _, broken, _ in SIDES[side](net, threat, images, labels):
            found[broken] = True
        for place, times in zip(places, found.view(-1, TIMES).sum(1).tolist(), strict=True):
            print(f"{run.name} image {place}: {side} in {times} of {TIMES}")


def main() -> None:
    """Fill the table and print a summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--sides", nargs="*", choices=SIDES, default=["ours", "theirs"])
    parser.add_argument("--table", type=Path, default=Path("agreement.jsonl"))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--chunk", type=int, default=128, help="images at a time")
    parser.add_argument("--again", action="store_true")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    with computing_threads(asked.threads):
        if asked.again:
            for run in asked.runs:
                again(run, disputed(known(asked.table), run.name), Linf(eps=asked.eps))
            return
        fill(asked.table, asked)
    for run in asked.runs:
        for rival in list(SIDES)[1:]:
            for line in summary(known(asked.table), run.name, rival):
                print(line)


if __name__ == "__main__":
    main()
