"""The networks that studies train: one recipe for each scale, and what a study varies in it."""

from dataclasses import replace

from sparring.attacks import PGD, Linf
from sparring.models import PaperNetwork
from sparring.studies.study import Scale
from sparring.training import Adam, Constant, Fresh, Stale, TrainConfig, Validation
from sparring.training.presets import fast, paper

EPS = 0.3
"""The paper's threat, at every scale."""
ATTACK = 8
"""Steps of the attack that the paper settles on."""
PAPERS = paper().updates
"""Updates of the paper's networks."""
SPARE = 512
"""Updates after these, in which a network can be seen to go on: its settings are constant."""
SNAPSHOTS = {"smoke": 4, "short": 98, "paper": 2000}
"""Updates between two snapshots."""


def attacked(scale: Scale, steps: int) -> TrainConfig:
    """A network that is trained against so many steps of 2.5 ε / κ from a random start.

    At the scale paper its settings; at short the schedule of the preset fast, whose learning rate
    rises and falls; at smoke a few updates.
    """
    attack = PGD(threat=Linf(eps=EPS), steps=steps, start="uniform")
    if scale == "paper":
        return _watched(_papers(attack), scale)
    short = replace(fast(), attack=attack, early_steps=())
    return _watched(short if scale == "short" else _tiny(short), scale)


def stale(scale: Scale, staleness: int, fresh_steps: int = 0) -> TrainConfig:
    """A network whose batches wait `staleness` updates, at a constant learning rate.

    The last `fresh_steps` of each attack are taken with the weights of the update.

    At the scale paper its settings; at short up to ten epochs at five times its learning rate,
    from a start that such short training gets off the ground from; at smoke a few updates.
    """
    source = Stale(staleness=staleness, fresh_steps=fresh_steps) if staleness else Fresh()
    attack = PGD(threat=Linf(eps=EPS), steps=ATTACK, start="uniform")
    if scale == "paper":
        return _watched(replace(_papers(attack), source=source), scale)
    short = replace(
        fast(),
        attack=attack,
        early_steps=(),
        model=PaperNetwork(initialisation="small"),
        optimizer=Adam(learning_rate=5e-4),
        schedule=Constant(),
        average=0.0,
        updates=4096,
        source=source,
    )
    return _watched(short if scale == "short" else _tiny(short, updates=16), scale)


def enough_attacked(scale: Scale) -> int | None:
    """Updates of a network of `attacked` that are all of its recipe's; none told, all there are.

    At the scale paper some are spare: cycling's networks are among these.
    """
    return PAPERS if scale == "paper" else None


def enough(scale: Scale) -> int:
    """Updates of a stale network after which it has shown what becomes of it.

    There are more, so that a network can be seen to go on, its queue being full.
    """
    return {"smoke": 8, "short": 1274, "paper": PAPERS}[scale]


def _papers(attack: PGD) -> TrainConfig:
    """The paper's settings, and some updates to spare."""
    return replace(paper(), attack=attack, updates=PAPERS + SPARE)


def _tiny(config: TrainConfig, updates: int = 8) -> TrainConfig:
    """Few updates of sixteen images."""
    return replace(config, batch_size=16, updates=updates)


def hardly_watched(config: TrainConfig) -> TrainConfig:
    """One that looks at itself once, in the end, briefly."""
    return replace(config, validation=Validation(every=0, images=16, steps=1, alarm_every=0))


def _watched(config: TrainConfig, scale: Scale) -> TrainConfig:
    """One thread each, since networks are trained side by side; snapshots for measurements."""
    seen = hardly_watched(config) if scale == "smoke" else config
    return replace(seen, threads=1, snapshot_every=SNAPSHOTS[scale])
