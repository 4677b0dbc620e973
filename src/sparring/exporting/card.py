"""The model card of an export: README.md with metadata for Hugging Face.

Text from users is escaped: in the metadata as JSON strings, which are YAML too, and elsewhere for
Markdown and HTML.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from sparring.exporting.formats import FORMATS, OPSET, TOLERANCE
from sparring.records import Environment, Evaluation, Proportion, RunDirectory, read_json
from sparring.records.text import arithmetic_text, count_text, hardware_text, setting_text

_PATHS = ("data", "init", "factory")
"""Settings that are paths; the card shows their last parts."""
_ARGUMENTS = "arguments"
"""Settings of name=value, whose values may be paths, or hold some as JSON."""
_VALUE = re.compile(r"[^=\"'\[\]{},]*[/\\][^=\"'\[\]{},]*")
_FRACTION = re.compile(r"[\d\s.]+/[\d\s.]+")
_OPENING = re.compile(r"([\\`*_{}\[\]<>#|~&$@!():])")
"""Characters with a meaning in Markdown or HTML."""
_LISTED = 100
"""Classes named in the card; classes.json has all."""


def card_text(
    run: RunDirectory,
    differences: Mapping[str, float],
    image_shape: tuple[int, int, int],
    checked: int,
    found: Evaluation | None,
) -> str:
    """The card of a run's network, with the numbers of an evaluation of these weights.

    Raises `RunError` or `ConfigError` if the run's files are damaged.
    """
    model, threat = (run.section(name, dict[str, Any]) for name in ("model", "threat"))
    settings = read_json(run.config)
    data = _last_part(str(run.section("data", str)))
    settings = _private(settings)
    assert isinstance(settings, dict)
    paragraphs = [
        _metadata(data, found),
        "# Robust image classifier",
        "Trained by sparring to withstand adversarial "
        f"examples: {plain(setting_text(_private(model)))}, for the data `{_code(data)}`.",
        _interface(run, image_shape),
        "## Threat",
        f"Any change of an image within {plain(setting_text(threat))}, in units of "
        "pixels in [0, 1], that leaves pixels in [0, 1].",
        "## Robustness",
        *(_measured(found) if found else [_unmeasured()]),
        "## Limits",
        "- Robust accuracy holds for this threat, these test images and these attacks. Another "
        "norm, a larger ε, rotations, blur, patches or other data may break the network.\n"
        "- A robust accuracy is no proof unless it is certified; a stronger attack may succeed.\n"
        "- Do not let a decision that can hurt people depend on it alone. It also assigns a class "
        "to images of no known class.",
        "## How to load it",
        *_loading(differences),
        f"Largest differences of a logit on {checked} test images, relative to the largest logit "
        f"if above 1: {_shown(differences)}. Up to {TOLERANCE:g} is allowed.",
        "## How it was trained",
        "\n".join(_settings(settings)),
        *_environment(run.read_environment()),
    ]
    return "\n\n".join(paragraphs) + "\n"


def current_evaluation(run: RunDirectory) -> Evaluation | None:
    """The run's evaluation; `None` without one, or if it is of other weights."""
    found = Evaluation.load(run.evaluation) if run.evaluation.exists() else None
    return found if found is not None and run.is_current(found) else None


def plain(text: str) -> str:
    """Text escaped for Markdown, on one line."""
    return _OPENING.sub(r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return " ".join(text.split()).replace("`", "'") or "?"


def _last_part(path: str) -> str:
    return Path(path).name or path


def _metadata(data: str, found: Evaluation | None) -> str:
    """YAML, written as JSON values."""
    known: dict[str, object] = {
        "library_name": "sparring",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-training", "adversarial-robustness", "robust-classification"],
    }
    if found is not None:
        metrics = [_metric("natural accuracy", found.natural)]
        name = f"robust accuracy, suite {found.suite}, {found.threat}"
        metrics.append(_metric(name, found.robust))
        if found.certified is not None:
            metrics.append(_metric(f"certified accuracy, {found.threat}", found.certified))
        task = {"type": "image-classification"}
        result = {"task": task, "dataset": {"name": data, "type": data}, "metrics": metrics}
        known["model-index"] = [{"name": "robust image classifier", "results": [result]}]
    lines = [f"{name}: {json.dumps(value)}" for name, value in known.items()]
    return "\n".join(["---", *lines, "---"])


def _metric(name: str, share: Proportion) -> dict[str, object]:
    return {"type": "accuracy", "name": name, "value": round(share.share, 6)}


def _private(value: object) -> object:
    """A setting without the folders of its paths, a list as text."""
    if isinstance(value, Mapping):
        return {
            name: _last_part(inner)
            if name in _PATHS and isinstance(inner, str)
            else _private(_shortened(inner) if name == _ARGUMENTS else inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return "; ".join(setting_text(_private(inner)) for inner in value)
    return value


def _shortened(arguments: object) -> object:
    """Arguments with the last part of each path in their values."""
    if not isinstance(arguments, list):
        return arguments
    return [
        _VALUE.sub(
            lambda part: (
                part[0] if _FRACTION.fullmatch(part[0]) else PureWindowsPath(part[0].strip()).name
            ),
            str(each),
        )
        for each in arguments
    ]


def _interface(run: RunDirectory, image_shape: tuple[int, int, int]) -> str:
    names = run.class_names()
    listed = ", ".join(plain(name) for name in names[:_LISTED])
    more = ", …" if len(names) > _LISTED else ""
    classes = f" Classes, in the order of the logits: {listed}{more}." if names else ""
    return (
        f"Takes a batch of any number of images of shape {image_shape} (channels, height, width), "
        "32-bit floats, pixels in [0, 1] (grey level / 255), and returns logits, without softmax. "
        "Any normalisation is inside the network: do not normalise before it."
        f"{classes}"
    )


def _measured(found: Evaluation) -> Iterator[str]:
    rows = [
        ("natural accuracy", found.natural),
        (f"robust accuracy, suite {found.suite}", found.robust),
    ]
    if found.certified is not None:
        rows.append(("certified accuracy, a part of it", found.certified))
    cells = [f"| {plain(name)} | {share} |" for name, share in rows]
    yield "\n".join(["| | share and 95 % Wilson interval |", "|---|---|", *cells])
    yield (
        f"{count_text(found.num_images)} test images, {plain(found.threat)}, seed {found.seed}, "
        f"searched in {plain(arithmetic_text(found.precision))}; attacks: "
        f"{plain(', '.join(attack.name for attack in found.attacks))}."
    )
    flags = [f"- **flag**, {plain(flag.check)}: {plain(flag.sentence)}" for flag in found.flags]
    caveats = [f"- caveat: {plain(caveat)}" for caveat in found.caveats]
    proofs = [f"- {plain(found.proofs)}"] if found.proofs else []
    yield "\n".join([*proofs, f"- {plain(found.checks)}", *flags, *caveats])


def _unmeasured() -> str:
    return (
        "**These weights were not evaluated**: their robust accuracy is unknown. Evaluate the run "
        "and export again: `sparring evaluate RUN --suite standard`"
    )


def _loading(differences: Mapping[str, float]) -> Iterator[str]:
    if "safetensors" in differences:
        yield _python(
            "from sparring.exporting import exported_network",
            "",
            'network = exported_network("FOLDER")  # a Python object\'s: network=THE_OBJECT',
        )
        yield f"Or train on from `{FORMATS['safetensors'].file}`: `sparring train --init FILE`."
    if "torch" in differences:
        load = f'network = torch.export.load("{FORMATS["torch"].file}").module()'
        yield _python("import torch", "", load)
    if "onnx" in differences:
        session = f'session = onnxruntime.InferenceSession("{FORMATS["onnx"].file}")'
        run = '(logits,) = session.run(["logits"], {"images": images})'
        yield _python("import onnxruntime", "", session, run)
        yield f"ONNX opset {OPSET}."


def _python(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _shown(differences: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1g}" for name, value in differences.items())


def _settings(settings: Mapping[str, object]) -> Iterator[str]:
    for name, value in settings.items():
        if name == "model":
            continue
        if value not in (None, ""):
            yield f"- {plain(name)}: {plain(setting_text(value))}"


def _environment(where: Environment | None) -> Iterator[str]:
    if where is not None:
        yield f"With sparring {plain(where.sparring)} on {plain(hardware_text(where))}."
