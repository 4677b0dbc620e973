"""What the fast path saves: one PGD step and one update against plain PyTorch, in one run.

    python benchmarks/fast_path.py [--threads N] [--rounds N] [--batch-size N]

Plain PyTorch is the paper's CNN as one would write it: contiguous tensors, single precision, ReLU
before pooling, `loss.backward()` and the gradient read off `x.grad`, `torch.optim.Adam` by its
defaults. Ours is what `sparring train` runs on this hardware, and its single-precision form beside
it where those differ. All are timed in turn within every round, so that a slow spell of the
machine meets all of them; reported are medians over the rounds, and the ratios of the medians.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparring.attacks import PGD, AttackedBatch, Linf
from sparring.data import Dataset, load_dataset
from sparring.models import PaperNetwork, has_bf16_units
from sparring.records import describe
from sparring.studies.recipes import PlainNetwork
from sparring.training import Adam, TrainConfig, Trainer

EPS = 0.3
WARM_UP = 3
"""Rounds that are not counted: the first passes allocate memory and choose kernels."""


def plain_step(model: nn.Module, start: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    x = start.clone().requires_grad_(True)
    cross_entropy(model(x), labels, reduction="sum").backward()
    if x.grad is None:
        raise RuntimeError("loss.backward() must leave a gradient on the images")
    moved = x.detach() + 0.1 * x.grad.sign()
    return torch.min(torch.max(moved, images - EPS), images + EPS).clamp(0, 1)


def plain_update(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    optimizer.zero_grad()
    cross_entropy(model(images), labels).backward()
    optimizer.step()


def contestants(dataset: Dataset, batch_size: int) -> dict[str, Callable[[], object]]:
    """Everything that is timed, by name; all on the same weights, images and attacked images."""
    attack = PGD(threat=Linf(eps=EPS), steps=1, step_size=0.1)
    config = TrainConfig(
        model=PaperNetwork(initialisation="torch"),
        attack=attack,
        optimizer=Adam(learning_rate=1e-4),
        batch_size=batch_size,
    )
    device = torch.device("cpu")
    exact = Trainer(replace(config, precision="fp32"), dataset, device)
    batch = exact.loader.begin(0)
    timed = _plain(exact.network, batch)
    own = [exact]
    if has_bf16_units(device):
        own.append(Trainer(replace(config, precision="bf16"), dataset, device))
    for trainer in own:
        name = trainer.copy.name
        timed[f"PGD step, {name}"] = lambda trainer=trainer: attack.search_from(
            batch.adversarial, trainer.copy.attacked, batch.images, batch.labels
        )
        timed[f"update, {name}"] = lambda trainer=trainer: trainer.update(batch)
    return timed


def _plain(network: nn.Module, batch: AttackedBatch) -> dict[str, Callable[[], object]]:
    model = PlainNetwork().build(seed=0)
    model.load_state_dict(network.state_dict())
    trained = copy.deepcopy(model)
    optimizer = torch.optim.Adam(trained.parameters(), lr=1e-4)
    return {
        "PGD step, plain PyTorch": lambda: plain_step(
            model, batch.adversarial, batch.images, batch.labels
        ),
        "update, plain PyTorch": lambda: plain_update(
            trained, optimizer, batch.adversarial, batch.labels
        ),
    }


def agreement(timed: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Share of pixels that one step of ours moves as plain PyTorch does, for each of ours."""
    steps = {name: run() for name, run in timed.items() if name.startswith("PGD step")}
    plain = steps.pop("PGD step, plain PyTorch")
    shares = {}
    for name, ours in steps.items():
        if not (isinstance(plain, Tensor) and isinstance(ours, Tensor)):
            raise TypeError("a PGD step must return images")
        shares[name] = torch.isclose(plain, ours, rtol=0, atol=1e-6).float().mean().item()
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=128)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    timed = contestants(load_dataset("mnist"), asked.batch_size)
    alike = agreement(timed)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(WARM_UP + asked.rounds):
        for name, run in timed.items():
            begun = time.perf_counter()
            run()
            if number >= WARM_UP:
                seconds[name].append(time.perf_counter() - begun)
    where = describe(threads=asked.threads, device="cpu", precision="as named")
    print(f"{where.processor}, {where.cores} cores, {asked.threads} threads, torch {where.torch},")
    units = "has" if has_bf16_units(torch.device("cpu")) else "has no"
    print(f"{units} bf16 units; batch {asked.batch_size}, medians of {asked.rounds} rounds")
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for kind in ("PGD step", "update"):
        plain = medians[f"{kind}, plain PyTorch"]
        for name in (name for name in medians if name.startswith(kind)):
            low, high = min(seconds[name]), max(seconds[name])
            spread = f"[{1e3 * low:.1f}, {1e3 * high:.1f}]"
            ratio = plain / medians[name]
            print(f"{name:38} {1e3 * medians[name]:7.1f} ms {spread:18} {ratio:5.2f}x")
    for name, share in alike.items():
        print(f"{name}: {100 * share:.3f} % of the pixels move as in plain PyTorch")


if __name__ == "__main__":
    main()
