"""The evaluations of a folder, side by side: the strongest is its verdict."""

import hashlib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sparring.attacks.threat import DEFAULT
from sparring.errors import ConfigError, RunError
from sparring.evaluation.suites import SUITES
from sparring.evaluation.verdict import Verdict
from sparring.records import Evaluation, Examples, RunDirectory
from sparring.records.files import run_errors, write_atomically

LEAST = 32
"""An evaluation on fewer images, unless they are all, is weaker than any on as many."""
_LISTED = 8
"""Classes in the name of a file."""


def strongest(
    evaluations: Sequence[Evaluation], weights: str, whole: int | None = None
) -> Evaluation:
    """The evaluation that counts; the order in which they were made does not matter.

    An evaluation is stronger than another by the first of these that differs: it is of these
    weights, in the run's own threat, on all classes, on at least `LEAST` images, or on the `whole`
    test set where that has fewer; its suite; it has more images; it has checks. Suites are ordered
    as in `SUITES`; one of your own comes after the last one all of whose attacks it contains, and
    before all others if there is none.
    Of the evaluations on the same images as the strongest, that with the lowest robust accuracy
    counts: it is the lowest upper bound.
    """
    least = LEAST if whole is None else min(LEAST, whole)
    best = max(evaluations, key=lambda one: _strength(one, weights, least))
    same = [
        one
        for one in evaluations
        if _subject(one, weights) == _subject(best, weights) and _agree(one.judged, best.judged)
    ]
    return max(same, key=lambda one: (-one.robust.successes, _strength(one, weights, least)))


def _agree(one: str, other: str) -> bool:
    """Whether two digests are equal; evaluations of earlier versions have none."""
    return one == other or not (one and other)


def _alike(one: Evaluation, other: Evaluation) -> bool:
    """Whether two evaluations of one name are of the same images, threat and attacks."""
    return _agree(one.judged, other.judged) and one.method == other.method


def _subject(found: Evaluation, weights: str) -> tuple[object, ...]:
    """What was evaluated: weights, threat and images."""
    is_current = found.weights in ("", weights)
    return is_current or found.weights, found.threat, found.classes, found.num_images


def _strength(found: Evaluation, weights: str, least: int) -> tuple[bool | int | float, ...]:
    """An evaluation of an earlier version, without a digest of weights, counts as one of these."""
    return (
        found.weights in ("", weights),
        found.own_threat,
        found.classes is None,
        found.num_images >= least,
        _rank(found),
        found.num_images,
        found.findings is not None,
        -found.robust.successes,
    )


def _rank(found: Evaluation) -> float:
    if found.suite in SUITES:
        return list(SUITES).index(found.suite)
    attacks = {attack.name for attack in found.attacks}
    contained = [
        place
        for place, suite in enumerate(SUITES.values())
        if {attack.name for attack in suite.against(DEFAULT)} <= attacks
    ]
    return max(contained) + 0.5 if contained else -1


def kept_as(place: RunDirectory, found: Evaluation) -> str:
    """The name under which an evaluation is kept beside the verdict; empty for the verdict."""
    return next((name for name, one in _stored(place).items() if one == found), _name(found))


def check_kept(place: RunDirectory) -> None:
    """Raise `RunError`, before an evaluation, if its folder could not keep it afterwards.

    That is where a file there is damaged, or where the folder cannot be written to.
    """
    _stored(place)
    with (
        run_errors("keep an evaluation in", place.path),
        tempfile.TemporaryFile(dir=place.path),
    ):
        pass


def _stored(place: RunDirectory) -> dict[str, Evaluation]:
    """The evaluations of a folder by their names; the verdict, with an empty one, comes first."""
    front = place.evaluation
    paths = sorted(place.evaluations(), key=lambda path: path != front)
    names = [path.stem.removeprefix(front.stem).removeprefix("-") for path in paths]
    try:
        return {name: Evaluation.load(path) for name, path in zip(names, paths, strict=True)}
    except (ConfigError, RunError) as error:
        raise RunError(f"{error} Or delete it: evaluations can be made again.") from error


def keep(place: RunDirectory, verdict: Verdict) -> None:
    """Write an evaluation into a folder, and make the strongest one there its verdict.

    One of the same settings and weights, on the same images, is replaced.
    """
    found, stored = verdict.evaluation, _stored(place)
    _write(place, _place_of(found, stored), verdict)
    stored = _stored(place)
    data = place.read_data()
    whole = None if data is None else data.test.images
    best = strongest(list(stored.values()), found.weights, whole)
    if best != stored[""]:
        name = next(name for name, one in stored.items() if one == best)
        _promote(place, name, _free(stored, _aside_name(stored[""], found.weights), stored[""]))
        return
    for name, one in stored.items():  # left by a kill
        if name and one.weights == best.weights and _repeats(one, best):
            with run_errors("remove files in", place.path):
                _remove(place.evaluation_files(name))


def _place_of(found: Evaluation, stored: dict[str, Evaluation]) -> str:
    """The name of the one that it replaces, or a new one; empty in a new folder."""
    for name, one in stored.items():
        if _repeats(one, found):
            return name
    return _free(stored, _name(found), found) if "" in stored else ""


def _repeats(one: Evaluation, found: Evaluation) -> bool:
    """Whether they have the same settings, weights and images."""
    is_current = one.weights in ("", found.weights)
    return is_current and _name(one) == _name(found) and _alike(one, found)


def _free(stored: dict[str, Evaluation], name: str, found: Evaluation) -> str:
    """A name for an evaluation that takes none of another one's."""
    taken = name in stored and not _alike(stored[name], found)
    return _name_apart(found) if taken else name


def _name_apart(found: Evaluation) -> str:
    """A name with what was judged and how, for a folder with another one of the same name."""
    known = hashlib.sha256(f"{found.judged}{found.method}".encode()).hexdigest()
    return f"{_name(found)}-{known[:8]}"


def _promote(place: RunDirectory, name: str, aside: str) -> None:
    """Make the evaluation of this name the verdict; the verdict before is copied aside first.

    Until the end both are whole beside the verdict: the next call finishes one that was killed.
    """
    front, before, best = (place.evaluation_files(each) for each in ("", aside, name))
    with run_errors("copy files in", place.path):
        if not (before[0].exists() and before[0].read_bytes() == front[0].read_bytes()):
            _copy(front, before)
        _copy(best, front)
        _remove(best)


def _copy(files: Sequence[Path], to: Sequence[Path]) -> None:
    """Copy an evaluation's files; its shares come last, so that they stand for a whole copy."""
    for file, copy in reversed(list(zip(files, to, strict=True))):
        if file.exists():
            write_atomically(copy, file.read_bytes())
        else:
            copy.unlink(missing_ok=True)


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _write(place: RunDirectory, name: str, verdict: Verdict) -> None:
    shares, outcomes, examples = place.evaluation_files(name)
    verdict.outcomes.save(outcomes)
    _keep_examples(examples, verdict.examples)
    verdict.evaluation.save(shares)


def _aside_name(found: Evaluation, weights: str) -> str:
    is_current = found.weights in ("", weights)
    return _name(found) if is_current else f"{_name(found)}-of-{found.weights[:8]}"


def _name(found: Evaluation) -> str:
    """A name of an evaluation's settings: suite, threat unless it is the run's, images, seed.

    A suite of your own may change and keep its name, so the names of its attacks count.
    """
    parts = [found.suite, str(found.num_images)]
    attacks = " + ".join(attack.name for attack in found.attacks)
    if found.suite not in SUITES and found.suite != attacks:
        parts.insert(1, hashlib.sha256(attacks.encode()).hexdigest()[:8])
    if not found.own_threat:
        parts.append(found.threat)
    if found.classes is not None:
        listed = [str(number) for number in found.classes[:_LISTED]]
        parts += ["classes", *listed, *(["more"] if len(found.classes) > _LISTED else [])]
    if found.seed:
        parts.append(f"seed{found.seed}")
    if found.findings is None:
        parts.append("unchecked")
    return "-".join(re.sub(r"[^\w.-]+", "-", part) for part in parts)


def _keep_examples(path: Path, examples: Examples | None) -> None:
    """Save the images of this evaluation, or remove those of an earlier one."""
    if examples is not None:
        examples.save(path)
        return
    with run_errors("remove", path):
        path.unlink(missing_ok=True)
