"""What `sparring train` may be told; `sparring.cli.settings` makes settings of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from sparring.cli.arguments import PLAIN, flag, number, one_of, path, run_or_newest, several, whole
from sparring.records.text import eps_from

SCALINGS = ("linear", "none")
"""What several trainers may do to settings that are meant for one."""
DEFAULT_PRESET = "fast"
"""Settings of a command that names none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainFlags:
    """What `sparring train` may be given; nothing is needed."""

    preset: Annotated[str | None, flag("--preset", str, "NAME"), PLAIN] = None
    """fast (the default), paper, paper-async, madry or natural."""
    config: Annotated[Path | None, flag("--config", path, "FILE"), PLAIN] = None
    """Begin with a run's config.json, or a --dry-run, instead."""
    out: Annotated[Path | None, flag("--out", path, "DIR"), PLAIN] = None
    """Run directory, new or empty; by default a new one in runs/."""
    resume: Annotated[Path | None, run_or_newest("--resume"), PLAIN] = None
    """Resume it, by default the newest run; --updates extends it."""
    seed: Annotated[int | None, flag("--seed", whole, "N"), PLAIN] = None
    """Determines weights at first, data order and attacks' starts."""
    updates: Annotated[int | None, flag("--updates", whole, "N"), PLAIN] = None
    """Updates of the weights in all; with --resume a larger number."""
    epochs: Annotated[float | None, flag("--epochs", number, "N"), PLAIN] = None
    """Instead of --updates: N times images / batch size of them, rounded up."""
    batch_size: Annotated[int | None, flag("--batch-size", whole, "B"), PLAIN] = None
    """Images of a batch."""
    lr: Annotated[float | None, flag("--lr", number, "R"), PLAIN] = None
    """Largest learning rate; the schedule multiplies it."""
    optimizer: Annotated[str | None, flag("--optimizer", str, "NAME"), PLAIN] = None
    """adam, sgd or file.py:name."""
    momentum: Annotated[float | None, flag("--momentum", number, "M"), PLAIN] = None
    """Of sgd, or an argument of your own optimizer."""
    weight_decay: Annotated[float | None, flag("--weight-decay", number, "W"), PLAIN] = None
    """The same."""
    schedule: Annotated[str | None, flag("--schedule", str, "NAME"), PLAIN] = None
    """constant, warm-up, triangular, one-cycle, steps or file.py:name."""
    augmentation: Annotated[tuple[str, ...], several("--augmentation", str, "NAME ..."), PLAIN] = ()
    """flip, crop and file.py:name, in order."""
    data: Annotated[str | None, flag("--data", str, "PATH"), PLAIN] = None
    """mnist (bundled), an .npz file or a folder: see sparring data --help."""
    channels: Annotated[
        str | None, flag("--channels", one_of("rgb", "grey"), "rgb|grey"), PLAIN
    ] = None
    """Convert every picture to colour, or to grey."""
    model: Annotated[str | None, flag("--model", str, "MODEL"), PLAIN] = None
    """paper, small-cnn, preact-resnet-18, wide-resnet or file.py:factory."""
    model_args: Annotated[tuple[str, ...], several("--model-args", str, "K=V ..."), PLAIN] = ()
    """Arguments of the factory, or settings of a built-in model."""
    mean: Annotated[tuple[float, ...], several("--mean", number, "M ..."), PLAIN] = ()
    """Normalise as the first layer: of pixels in [0, 1], by channel."""
    std: Annotated[tuple[float, ...], several("--std", number, "S ..."), PLAIN] = ()
    """Beside --mean."""
    init: Annotated[Path | None, flag("--init", path, "FILE"), PLAIN] = None
    """Begin with these weights: .safetensors, or a torch state_dict."""
    attack: Annotated[str | None, flag("--attack", str, "NAME"), PLAIN] = None
    """Training attack: pgd (the default) or file.py:name."""
    objective: Annotated[str | None, flag("--objective", str, "NAME"), PLAIN] = None
    """adversarial, mixed, trades or file.py:name."""
    threat: Annotated[str | None, flag("--threat", one_of("linf", "l2"), "linf|l2"), PLAIN] = None
    """Norm of the threat; its usual size for such images without --eps."""
    eps: Annotated[float | None, flag("--eps", eps_from, "E"), PLAIN] = None
    """Threat to withstand, 0.3 or 8/255; scales the training attack."""
    steps: Annotated[int | None, flag("--steps", whole, "K"), PLAIN] = None
    """Gradient steps of the training attack throughout; its reach stays."""
    source: Annotated[
        str | None, flag("--source", one_of("fresh", "stale", "async"), "fresh|stale|async"), PLAIN
    ] = None
    """Attack with current weights, let batches wait, or have workers attack."""
    staleness: Annotated[int | None, flag("--staleness", whole, "S"), PLAIN] = None
    """Updates for which a batch waits under --source stale."""
    workers: Annotated[int | None, flag("--workers", whole, "N"), PLAIN] = None
    """Who attack under --source async; with 0 the trainer does."""
    transport: Annotated[
        str | None, flag("--transport", one_of("process", "ray"), "process|ray"), PLAIN
    ] = None
    """Workers: processes of this machine, or actors of Ray."""
    ray_address: Annotated[str | None, flag("--ray-address", str, "HOST:PORT"), PLAIN] = None
    """Of a running Ray cluster; or RAY_ADDRESS, or a local one."""
    policy: Annotated[
        str | None,
        flag("--policy", one_of("fixed-lag", "newest", "sync", "sharded"), "P"),
        PLAIN,
    ] = None
    """Weights for workers: fixed-lag, newest, sync or sharded."""
    lag: Annotated[int | None, flag("--lag", whole, "L"), PLAIN] = None
    """Updates by which attacks of fixed-lag run ahead."""
    publish_every: Annotated[int | None, flag("--publish-every", whole, "K"), PLAIN] = None
    """Updates between publications; above 1, no fresh steps."""
    scaling: Annotated[str | None, flag("--scaling", one_of(*SCALINGS), "linear|none"), PLAIN] = (
        None
    )
    """Under torchrun: linear (the default) multiplies batch and learning rate."""
    precision: Annotated[
        str | None, flag("--precision", one_of("auto", "bf16", "fp32"), "auto|bf16|fp32"), PLAIN
    ] = None
    """auto takes bf16 where the hardware has units for it."""
    device: Annotated[str | None, flag("--device", str, "D"), PLAIN] = None
    """cpu, cuda or another PyTorch device; by default CUDA if there is one."""
    threads: Annotated[int | None, flag("--threads", whole, "N"), PLAIN] = None
    """CPU threads; 0 for all cores, and one beside workers."""
    sink: Annotated[tuple[str, ...], several("--sink", str, "FILE.PY:NAME"), PLAIN] = ()
    """Also send the measurements to sinks of your own."""
    set: Annotated[
        tuple[str, ...], UseAppendAction, arg(metavar="NAME=VALUE", help_behavior_hint="")
    ] = ()
    """Any setting by its dotted name in config.json; repeatable."""
    dry_run: Annotated[bool, PLAIN] = False
    """Print all settings as JSON, check them, and write nothing."""
    trust_code: Annotated[bool, PLAIN] = False
    """Run code from elsewhere that --resume or --config names."""
    json: Annotated[bool, PLAIN] = False
    """Print the result as JSON."""
