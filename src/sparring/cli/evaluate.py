"""`sparring evaluate`: how robust a run's classifier, or any other, is, with a 95 % interval."""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from tyro.conf import UseAppendAction, arg

from sparring.cli.arguments import PLAIN, Form, flag, number, pairs, path, several, source, whole
from sparring.cli.console import (
    print_ending,
    print_json,
    print_prose,
    print_result,
    print_table,
    result_table,
)
from sparring.errors import ConfigError
from sparring.records import Evaluation, Proportion, RunDirectory, to_json
from sparring.records.checks import choice
from sparring.records.text import (
    count_text,
    counted,
    duration_text,
    eps_from,
    eps_text,
    hardware_text,
)

if TYPE_CHECKING:
    from rich.table import Table

    from sparring.attacks import Threat

ABOUT = """Measure natural and robust accuracy on test images, of a run or any network.

RUN is a run directory; left out, the newest in runs/. Its own threat and data
are taken unless flags name others. After a stop, the same command resumes the
evaluation. Any other network is named by --model and --init.

examples:
  sparring evaluate
  sparring evaluate runs/fast-20300101-120000 --images 1000
  sparring evaluate --suite standard
  sparring evaluate runs/fast-20300101-120000 --data photographs/
  sparring evaluate --model nets.py:Net --init w.pt --data images/ --eps 8/255"""


def _eps(text: str) -> float:
    try:
        return eps_from(text)
    except ValueError as error:
        hint = " RUN goes before --eps." if Path(text).is_dir() else ""
        raise ValueError(f"{error}{hint}") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateFlags:
    """The flags of `sparring evaluate`."""

    suite: Annotated[str, flag("--suite", str, "NAME"), PLAIN] = "pgd"
    """Attacks: pgd (the default, quick), pgd-40, pgd-100x5, standard (for publication), or a
    suite of your own, file.py:name."""
    images: Annotated[int | None, flag("--images", whole, "N"), PLAIN] = None
    """Only the first N test images."""
    data: Annotated[str | None, flag("--data", source, "PATH"), PLAIN] = None
    """Evaluate on the test set of these data; of a run, into a folder of their own."""
    classes: Annotated[tuple[str, ...], several("--classes", str, "C ..."), PLAIN] = ()
    """Only images of these classes, by number or name."""
    threat: Annotated[str | None, flag("--threat", str, "NAME"), PLAIN] = None
    """linf, l2 (of the usual size) or file.py:name; a run's own by default."""
    eps: Annotated[tuple[float, ...], several("--eps", _eps, "E ..."), PLAIN] = ()
    """Size of the threat, 0.3 or 8/255, or several; a run's own by default."""
    model: Annotated[str | None, flag("--model", str, "MODEL"), PLAIN] = None
    """Instead of RUN: a network of train's --model, or file.py:factory."""
    init: Annotated[Path | None, flag("--init", path, "FILE"), PLAIN] = None
    """Its weights: .safetensors or a torch state_dict."""
    model_args: Annotated[tuple[str, ...], pairs("--model-args"), PLAIN] = ()
    """Settings of --model, or arguments of your factory."""
    mean: Annotated[tuple[float, ...], several("--mean", number, "M ..."), PLAIN] = ()
    """Mean by channel of pixels in [0, 1], to normalise them for --model."""
    std: Annotated[tuple[float, ...], several("--std", number, "S ..."), PLAIN] = ()
    """Standard deviation by channel, with --mean."""
    set: Annotated[
        tuple[str, ...], UseAppendAction, arg(metavar="NAME=VALUE", help_behavior_hint="")
    ] = ()
    """A setting of train for --data: image_size=28."""
    out: Annotated[Path | None, flag("--out", path, "DIR"), PLAIN] = None
    """Folder for the evaluation of --model; a run's folder keeps its own."""
    save_adversarial: Annotated[Path | None, flag("--save-adversarial", path, "FILE"), PLAIN] = None
    """Write images, labels, adversarial images and predictions to a .npz or .pt file."""
    seed: Annotated[int, flag("--seed", whole, "N"), PLAIN] = 0
    """Determines the attacks' random starts; 0 by default."""
    device: Annotated[str, flag("--device", str, "D"), PLAIN] = "auto"
    """PyTorch device, such as cpu; by default CUDA if any."""
    threads: Annotated[int, flag("--threads", whole, "N"), PLAIN] = 0
    """CPU threads; by default as many as there are cores."""
    batch_size: Annotated[int | None, flag("--batch-size", whole, "N"), PLAIN] = None
    """Images that pass through the network at once; by default 128 on a CPU, 1024 elsewhere."""
    precision: Annotated[str, flag("--precision", str, "P"), PLAIN] = "auto"
    """Of the search: fp32 (default), or bf16 and then fp32 for what is left."""
    no_checks: Annotated[bool, PLAIN] = False
    """Leave out the checks for gradient masking."""
    trust_code: Annotated[bool, PLAIN] = False
    """Run code of a run that you did not train here."""
    json: Annotated[bool, PLAIN] = False
    """Print the result as JSON."""


STRONGEST = "standard"
"""Suite to suggest after another one."""
OF_MODEL = ("init", "model_args", "mean", "std", "set", "out")
"""Flags that need --model."""
OF_DATA = ("channels", "data", "data_memory", "image_size", "init", "model")
"""Settings of a run that --set may change for --model: the network and its images."""
FORM = Form(verb="evaluate", flags=EvaluateFlags, about=ABOUT, word="RUN")


def run(argv: list[str]) -> int:
    """Evaluate the run or the network that the words name; return the exit code."""
    flags, word = FORM.read(argv)
    if len(set(flags.eps)) < len(flags.eps):
        named = " ".join(map(eps_text, flags.eps))
        raise ConfigError.expected("--eps must name each size once", named, "Leave one out.")
    if flags.save_adversarial is not None and len(flags.eps) > 1:
        raise ConfigError("--save-adversarial needs one --eps. Evaluate them one by one.")
    if flags.model is None:
        given = [name for name in OF_MODEL if getattr(flags, name) not in (None, ())]
        if given:
            raise ConfigError.expected(
                f"--{given[0].replace('_', '-')} needs --model", "none", "Add --model MODEL."
            )
        return _evaluate_run(flags, RunDirectory.chosen(word))
    _check_model(flags, word)
    return _evaluate_model(flags, flags.model)


def _check_model(flags: EvaluateFlags, word: str | None) -> None:
    if word is not None:
        raise ConfigError.expected(
            "a RUN and --model exclude each other",
            f"{word} and --model {flags.model}",
            "Leave one of them out.",
        )
    if flags.trust_code:
        raise ConfigError("--trust-code needs a RUN: what flags name is trusted. Leave it out.")
    if (flags.model or "").endswith(".py"):
        raise ConfigError(
            f"--model {flags.model} names a file. Add the class or function in it that makes the "
            f"network: {flags.model}:Net."
        )
    needed: dict[str, object] = {"--data PATH": flags.data}
    if ":" not in (flags.model or ""):  # a factory may load weights by itself
        needed["--init FILE"] = flags.init
    if ":" not in (flags.threat or ""):
        needed["--eps E"] = flags.eps or None
    for name, value in needed.items():
        if value is None:
            raise ConfigError(f"--model needs {name} as well, which this command lacks.")


def _evaluate_run(flags: EvaluateFlags, chosen: RunDirectory) -> int:
    # torch takes seconds to load: after the words are known to be right.
    from sparring.evaluation import evaluate_run
    from sparring.evaluation.run import results_on

    threats = _threats(flags, chosen)
    found = evaluate_run(
        chosen,
        other_data=flags.data,
        threat=threats if len(threats) > 1 else next(iter(threats), None),
        trust_code=flags.trust_code,
        **_settings(flags),
    )
    curve = found if isinstance(found, tuple) else (found,)
    if flags.json:
        _print_json({"run": str(chosen.path)}, curve)
        return 0
    place = chosen if flags.data is None else results_on(chosen, flags.data)
    _print(curve, str(chosen.path))
    asides = _asides(place, curve)
    if all(asides):
        verdict = Evaluation.load(place.evaluation)
        print_prose(
            f"The verdict is still the stronger evaluation in {place.evaluation}: suite "
            f"{verdict.suite} on {counted(verdict.num_images, 'test image')}, {verdict.threat}, "
            f"robust {verdict.robust}{', ' if verdict.bracket else ''}{verdict.bracket}."
        )
    print_ending(
        _written(flags, place, asides, curve), f"sparring report {shlex.quote(str(chosen.path))}"
    )
    return 0


def _threats(flags: EvaluateFlags, run: RunDirectory) -> "Sequence[Threat]":
    """The threats of the flags; none for the run's own."""
    from sparring.attacks.threat import resized, stored_threat

    if flags.threat is not None:
        if not flags.eps and ":" not in flags.threat:
            return [_usual(flags.threat, run)]
        return _sized(flags)
    own = stored_threat(run, trust_code=flags.trust_code) if flags.eps else None
    return [] if own is None else [resized(own, eps) for eps in flags.eps]


def _usual(norm: str, run: RunDirectory) -> "Threat":
    """The threat of this norm that images like the run's are mostly asked to withstand."""
    from sparring.attacks.plausible import usual
    from sparring.training.adapting import NORMS

    choice("--threat", norm, [*NORMS, "file.py:name"])
    stored = run.read_data()
    if stored is None:
        raise ConfigError(
            f"--threat {norm} needs --eps: {run.path} does not say whether its images are grey."
        )
    return usual(NORMS[norm], stored.shape[0])


def _sized(flags: EvaluateFlags) -> "Sequence[Threat]":
    """The threat of --threat, or L-infinity, in each size of --eps, or its own."""
    return [_adapted(flags, threat=flags.threat, eps=eps).threat for eps in flags.eps or (None,)]


def _adapted(flags: EvaluateFlags, **changes: Any) -> Any:
    """Settings of a run with these changes, from which network, data and threat are taken."""
    from sparring.training import presets
    from sparring.training.adapting import adapted

    return adapted(
        presets.natural(),
        **cast("Any", {name: each for name, each in changes.items() if each not in (None, ())}),
    )


def _evaluate_model(flags: EvaluateFlags, model: str) -> int:
    from sparring.evaluation import evaluate_network
    from sparring.training.config import opened
    from sparring.training.trainer import starting_network

    names = ("model", "model_args", "mean", "std", "init", "data", "set")
    config = _adapted(flags, **{name: getattr(flags, name) for name in names})
    _check_set(flags)
    data = opened(config)
    fitted = config.model.fitted(data.image_shape, data.num_classes)
    network = starting_network(replace(config, model=fitted))
    threats = _sized(flags)
    threat = threats if len(threats) > 1 else threats[0]
    verdict = evaluate_network(network, data, threat, out=flags.out, **_settings(flags))
    verdicts = verdict if isinstance(verdict, tuple) else (verdict,)
    curve = [each.evaluation for each in verdicts]
    weights = None if flags.init is None else str(flags.init)
    subject = f"{model}{f' with {weights}' if weights else ''} on {flags.data}"
    if flags.json:
        _print_json({"model": model, "init": weights, "data": flags.data}, curve)
        return 0
    _print(curve, subject)
    if weights is None:
        print_prose(f"note: no --init was given: the weights are those that {model} made.")
    place = None if flags.out is None else RunDirectory(flags.out)
    wrote = _written(flags, place, _asides(place, curve), curve)
    if wrote:
        print_result(f"wrote {wrote}")
    if curve[0].suite != STRONGEST:
        print_result(f"next: the same with --suite {STRONGEST}, before you rely on it")
    return 0


def _check_set(flags: EvaluateFlags) -> None:
    """Refuse known settings that an evaluation has no use for."""
    for name in (assignment.partition("=")[0] for assignment in flags.set):
        if name.partition(".")[0] not in OF_DATA:
            raise ConfigError.expected(
                f"--set of an evaluation takes settings of {', '.join(OF_DATA)}",
                name,
                "Leave it out, or see sparring evaluate --help for flags.",
            )


def _settings(flags: EvaluateFlags) -> dict[str, Any]:
    """The settings that an evaluation of a run and of another network share."""
    same = ("suite", "classes", "save_adversarial", "seed", "device", "threads", "batch_size")
    return {
        **{name: getattr(flags, name) for name in same},
        "num_images": flags.images,
        "precision": flags.precision,
        "checks": not flags.no_checks,
        "progress": True,
    }


def _asides(place: RunDirectory | None, curve: Sequence[Evaluation]) -> list[str]:
    """Under which name each evaluation is kept; empty for the verdict of the folder."""
    from sparring.evaluation.strength import kept_as

    return ["" if place is None else kept_as(place, found) for found in curve]


def _written(
    flags: EvaluateFlags,
    place: RunDirectory | None,
    asides: Sequence[str],
    curve: Sequence[Evaluation],
) -> str:
    """The files that were written, of several evaluations those with shares, and the time."""
    names: list[str] = []
    if place is not None:
        files = [place.evaluation_files(aside) for aside in asides]
        names += [str(shares) for shares, *_ in files]
        others = files[0][1:] if len(files) == 1 else ()
        names += [file.name for file in others if file.exists()]
    if flags.save_adversarial is not None:
        names.append(str(flags.save_adversarial))
    seconds = sum(found.seconds for found in curve)
    return f"{', '.join(names)} in {duration_text(seconds)}" if names else ""


def _print_json(about: dict[str, object], curve: Sequence[Evaluation]) -> None:
    several = [to_json(found) for found in curve]
    found = {"evaluations": several} if len(several) > 1 else several[0]
    print_json(json.dumps({**about, **found}, indent=2, ensure_ascii=False))


def _print(curve: Sequence[Evaluation], subject: str) -> None:
    from sparring.evaluation import SUITES

    first = curve[0]
    known = SUITES.get(first.suite)
    threats = f"{len(curve)} threats" if len(curve) > 1 else first.threat
    print_result(f"{subject} against {threats} on {count_text(first.num_images)} test images")
    print_result(f"suite {first.suite}: {known.summary if known else 'attacks of your own'}")
    print_result()
    print_table(_curve_table(curve) if len(curve) > 1 else _stages_table(first))
    print_result()
    for found in curve:
        if len(curve) > 1:
            print_result(f"{found.threat}:")
        for line in doubts(found):
            print_prose(line)
    print_prose(hardware_text(first.environment))


def _curve_table(curve: Sequence[Evaluation]) -> "Table":
    table = result_table("", "natural", "robust", "95 % interval", "certified", "seconds")
    for found in curve:
        certified = "" if found.certified is None else _cells(found.certified)[0]
        table.add_row(
            found.threat,
            _cells(found.natural)[0],
            *_cells(found.robust),
            certified,
            _seconds(found.seconds),
        )
    return table


def _stages_table(found: Evaluation) -> "Table":
    table = result_table("", "accuracy", "95 % interval", "seconds")
    table.add_row("natural", *_cells(found.natural), "")
    if found.certified is not None:
        table.add_row("certified", *_cells(found.certified), _seconds(found.certified_seconds))
    for attack in found.attacks:
        table.add_row(f"after {attack.name}", *_cells(attack.robust), _seconds(attack.seconds))
    table.add_row("robust", *_cells(found.robust), "")
    if found.check_seconds is not None:
        table.add_row("checks", "", "", _seconds(found.check_seconds))
    table.add_row("in all", "", "", _seconds(found.seconds))
    return table


def doubts(found: Evaluation) -> Iterator[str]:
    """The proofs, the checks, every flag, and every caveat."""
    if found.proofs:
        yield found.proofs
    yield found.checks
    yield from (f"flag, {flagged.check}: {flagged.sentence}" for flagged in found.flags)
    yield from (f"note: {caveat}" for caveat in found.caveats)


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"


def _cells(accuracy: Proportion) -> tuple[str, str]:
    low, high = accuracy.interval
    return f"{100 * accuracy.share:.1f} %", f"[{100 * low:.1f}, {100 * high:.1f}]"
