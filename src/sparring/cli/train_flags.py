"""Flags of `sparring train`; `sparring.cli.settings` makes settings of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from sparring.cli.arguments import (
    PLAIN,
    flag,
    number,
    one_of,
    pairs,
    path,
    run_or_newest,
    several,
    whole,
)
from sparring.records.text import eps_from

SCALINGS = ("linear", "none")
"""How settings for one trainer are changed for several."""
DEFAULT_PRESET = "fast"
"""Preset of a command without --preset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainFlags:
    """Flags of `sparring train`; all are optional. The docstrings are the help."""

    preset: Annotated[str | None, flag("--preset", str, "NAME"), PLAIN] = None
    """fast (default), paper, paper-async, madry, natural or certified."""
    config: Annotated[Path | None, flag("--config", path, "FILE"), PLAIN] = None
    """Start from this config.json or the output of --dry-run."""
    out: Annotated[Path | None, flag("--out", path, "DIR"), PLAIN] = None
    """Run directory, new or empty; by default one in runs/."""
    resume: Annotated[Path | None, run_or_newest("--resume"), PLAIN] = None
    """Resume this run, by default the newest one."""
    seed: Annotated[int | None, flag("--seed", whole, "N"), PLAIN] = None
    """Seed of initial weights, data order and attack starts."""
    updates: Annotated[int | None, flag("--updates", whole, "N"), PLAIN] = None
    """Updates of the weights in total, also with --resume."""
    epochs: Annotated[float | None, flag("--epochs", number, "N"), PLAIN] = None
    """Passes over the training images, instead of --updates."""
    batch_size: Annotated[int | None, flag("--batch-size", whole, "B"), PLAIN] = None
    """Images per batch."""
    lr: Annotated[float | None, flag("--lr", number, "R"), PLAIN] = None
    """Largest learning rate; the schedule multiplies it."""
    optimizer: Annotated[str | None, flag("--optimizer", str, "NAME"), PLAIN] = None
    """adam, sgd or file.py:name."""
    momentum: Annotated[float | None, flag("--momentum", number, "M"), PLAIN] = None
    """Momentum of sgd, or argument of your own optimizer."""
    weight_decay: Annotated[float | None, flag("--weight-decay", number, "W"), PLAIN] = None
    """Weight decay of sgd, or argument of your own optimizer."""
    schedule: Annotated[str | None, flag("--schedule", str, "NAME"), PLAIN] = None
    """constant, warm-up, triangular, one-cycle, steps or file.py:name."""
    augmentation: Annotated[tuple[str, ...], several("--augmentation", str, "A ..."), PLAIN] = ()
    """flip, crop and file.py:name, in order."""
    data: Annotated[str | None, flag("--data", str, "PATH"), PLAIN] = None
    """mnist, an .npz file or a folder: see sparring data -h."""
    channels: Annotated[
        str | None, flag("--channels", one_of("rgb", "grey"), "rgb|grey"), PLAIN
    ] = None
    """Convert all images to colour or to grey."""
    model: Annotated[str | None, flag("--model", str, "MODEL"), PLAIN] = None
    """paper, small-cnn, strided, preact-resnet-18, wide-resnet or file.py:factory."""
    model_args: Annotated[tuple[str, ...], pairs("--model-args"), PLAIN] = ()
    """Settings of the model, or arguments of your factory."""
    mean: Annotated[tuple[float, ...], several("--mean", number, "M ..."), PLAIN] = ()
    """Mean by channel of pixels in [0, 1], to normalise them."""
    std: Annotated[tuple[float, ...], several("--std", number, "S ..."), PLAIN] = ()
    """Standard deviation by channel, with --mean."""
    init: Annotated[Path | None, flag("--init", path, "FILE"), PLAIN] = None
    """Initial weights: .safetensors or a torch state_dict."""
    attack: Annotated[str | None, flag("--attack", str, "NAME"), PLAIN] = None
    """pgd, apgd, fab, square or file.py:name."""
    objective: Annotated[str | None, flag("--objective", str, "NAME"), PLAIN] = None
    """adversarial, mixed, trades, certified or file.py:name."""
    threat: Annotated[str | None, flag("--threat", str, "NAME"), PLAIN] = None
    """linf, l2 (of the usual size) or file.py:name."""
    eps: Annotated[float | None, flag("--eps", eps_from, "E"), PLAIN] = None
    """Size of the threat, 0.3 or 8/255; scales the attack."""
    steps: Annotated[int | None, flag("--steps", whole, "K"), PLAIN] = None
    """Attack steps per update; the step size follows."""
    source: Annotated[
        str | None, flag("--source", one_of("fresh", "stale", "reused", "async"), "KIND"), PLAIN
    ] = None
    """fresh, stale (queued), reused (last epoch's) or async."""
    staleness: Annotated[int | None, flag("--staleness", whole, "S"), PLAIN] = None
    """Updates for which a batch waits with --source stale."""
    workers: Annotated[int | None, flag("--workers", whole, "N"), PLAIN] = None
    """Attack workers with --source async; 0: the trainer."""
    transport: Annotated[
        str | None, flag("--transport", one_of("process", "ray", "slow-link"), "KIND"), PLAIN
    ] = None
    """process (on this machine), ray (actors of Ray), or slow-link (emulated)."""
    ray_address: Annotated[str | None, flag("--ray-address", str, "ADDRESS"), PLAIN] = None
    """HOST:PORT of Ray; otherwise RAY_ADDRESS, or local."""
    policy: Annotated[
        str | None,
        flag("--policy", one_of("fixed-lag", "newest", "sync", "sharded"), "P"),
        PLAIN,
    ] = None
    """Weights for workers: fixed-lag, newest, sync, sharded."""
    lag: Annotated[int | None, flag("--lag", whole, "L"), PLAIN] = None
    """Updates by which fixed-lag attacks run ahead."""
    publish_every: Annotated[int | None, flag("--publish-every", whole, "K"), PLAIN] = None
    """Updates between publications of the weights."""
    scaling: Annotated[str | None, flag("--scaling", one_of(*SCALINGS), "RULE"), PLAIN] = None
    """With torchrun: linear (default) scales batch and rate."""
    precision: Annotated[
        str | None, flag("--precision", one_of("auto", "bf16", "fp32"), "P"), PLAIN
    ] = None
    """auto (bf16 where hardware supports it), bf16 or fp32."""
    device: Annotated[str | None, flag("--device", str, "D"), PLAIN] = None
    """PyTorch device, such as cpu; by default CUDA if any."""
    threads: Annotated[int | None, flag("--threads", whole, "N"), PLAIN] = None
    """CPU threads; 0: all cores, or one beside workers."""
    sink: Annotated[tuple[str, ...], several("--sink", str, "FILE.PY:NAME"), PLAIN] = ()
    """Also send measurements to your own sinks."""
    set: Annotated[
        tuple[str, ...], UseAppendAction, arg(metavar="NAME=VALUE", help_behavior_hint="")
    ] = ()
    """Any setting by its name in config.json; repeatable."""
    dry_run: Annotated[bool, PLAIN] = False
    """Check and print all settings as JSON; write nothing."""
    trust_code: Annotated[bool, PLAIN] = False
    """Run code of others that --resume or --config names."""
    json: Annotated[bool, PLAIN] = False
    """Print the result as JSON."""
