"""Everything that determines a run's weights, as one record stored in config.json.

`linearly_scaled` turns settings for one trainer into those for several. Source: Goyal et al. 2017,
"Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", sections 2.1 and 2.2: when the batch
is multiplied by k, multiply the learning rate by k, and warm it up from the unscaled one over the
first 5 of 90 epochs. Bhat, Tsipras & Madry 2019 propose to combine it with theirs in their
discussion.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from sparring.attacks import (
    APGD,
    FAB,
    L2,
    PGD,
    BatchAttack,
    CustomThreat,
    EarlySteps,
    Linf,
    Recipe,
    Square,
    Threat,
)
from sparring.attacks.batch_attack import BUILT_IN
from sparring.attacks.own import aimed_at
from sparring.attacks.threat import DEFAULT
from sparring.data import Augmentation, Dataset, open_dataset
from sparring.data.pictures import Channels, Conversion
from sparring.data.streamed import DATA_MEMORY
from sparring.errors import ConfigError, launcher
from sparring.loader import Asynchronous, Fresh, SourceKind
from sparring.loader.sources import check_source
from sparring.models import ModelKind, PaperNetwork, Precision
from sparring.records import RunDirectory, from_json, read_json, to_json
from sparring.records.checks import at_least, positive, within
from sparring.records.custom import Custom, PythonObject, is_own, made
from sparring.records.own_code import check_trusted, named_code
from sparring.records.text import ByteCount, kind_text
from sparring.records.typed import UNTAGGED, kinds, setting_types, typed_record
from sparring.training.objectives import Adversarial, Certified, Objective
from sparring.training.optimizers import (
    Adam,
    Constant,
    EpsSchedule,
    Gradual,
    LearningRateSchedule,
    OneCycle,
    OptimizerKind,
    Steps,
    Triangular,
    WarmUp,
    scaled_optimizer,
)

WARM_UP = 5 / 90
"""Share of the run for which a scaled learning rate rises (Goyal et al.)."""


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """How a run is validated at intervals: on the first images of the validation set.

    If that is sorted by class, they are taken at even distances instead.
    """

    every: int = 500
    """Updates between two validations; 0 for none."""
    images: int = 512
    """The number of images."""
    steps: int = 20
    """Steps of the PGD attack, under the run's `threat`."""
    alarm_every: int = 100
    """Updates between two comparisons of training and evaluation; 0 for none."""
    alarm_images: int = 64
    """Images of the comparisons, taken in the same way."""

    def __post_init__(self) -> None:
        at_least("validation.every", self.every, 0)
        at_least("validation.images", self.images, 1)
        at_least("validation.steps", self.steps, 0)
        at_least("validation.alarm_every", self.alarm_every, 0)
        at_least("validation.alarm_images", self.alarm_images, 1)


AttackKind = Annotated[PGD | APGD | FAB | Square | Custom | PythonObject | BatchAttack, UNTAGGED]
"""The training attack, made without a threat for the run's; of your own, a `BatchAttack`."""
OWN = ("attack", "eps_schedule", "objective", "optimizer", "schedule")
"""Settings that may hold an object of your own; each step of `augmentation` may be one as well."""


@typed_record
@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run; `sparring.training.presets` makes whole ones.

    Where a record may stand in `attack`, `eps_schedule`, `augmentation`, `objective`, `optimizer`
    and `schedule`, so may an object of your own. Of that, config.json stores the name alone, and
    `resume` needs it again (`given`); a `Custom` record names a factory and is stored whole.
    """

    example: ClassVar = "presets.fast()"
    """How to make one, for messages."""

    data: str = "mnist"
    """"mnist" (bundled), a folder of class folders of pictures or of IDX files, an .npz file; of
    data passed in Python, "given:" and their name."""
    image_size: int | None = None
    """Pictures' shorter side is resized to it, and the middle square taken; `None`: as they are."""
    channels: Channels | None = None
    """"rgb" or "grey" converts all pictures to that; `None` refuses a mixture of both."""
    data_memory: ByteCount = DATA_MEMORY
    """Bytes of decoded pixels that are held in memory, 64MiB or a number; more are streamed."""
    augmentation: tuple[Augmentation, ...] = ()
    """What is done to training images before they are attacked, in order."""
    model: ModelKind = field(default_factory=PaperNetwork)
    """The network and its initialisation."""
    init: str | None = None
    """File of weights to begin with: safetensors, or a state_dict of torch.save."""
    threat: Threat = field(default_factory=Linf)
    """What the network is to withstand: validation and evaluation use it."""
    attack: AttackKind = field(default_factory=PGD)
    """What it is trained against, in the threat's norm; its ε may exceed the threat's."""
    eps_schedule: EpsSchedule = field(default_factory=Constant)
    """How the attack's ε moves, ticket by ticket."""
    early_steps: tuple[EarlySteps, ...] = ()
    """Shorter attacks early in the run, in order of `until`; `attack.steps` is their limit."""
    objective: Objective = field(default_factory=Adversarial)
    """What an update minimises."""
    optimizer: OptimizerKind = field(default_factory=Adam)
    """The optimiser and its largest learning rate."""
    schedule: LearningRateSchedule = field(default_factory=Constant)
    """How the learning rate moves, update by update."""
    source: SourceKind = field(default_factory=Fresh)
    """Where attacked batches come from."""
    batch_size: int = 128
    """Images an update, of all trainers together."""
    trainers: int = 1
    """Processes that share each update: each has an equal part of every batch."""
    updates: int = 60_000
    """Updates of the whole run."""
    seed: int = 0
    """Determines initial weights, data order and every attack's start."""
    average: float = 0.0
    """Decay of the exponential moving average of weights that is evaluated; 0 for none."""
    clip_norm: float | None = None
    """Largest norm of the gradient; `None` for no clipping."""
    precision: Precision = "auto"
    """bf16 where the hardware has units for it (auto), always (bf16) or never (fp32)."""
    device: str = "auto"
    """"auto": the first CUDA device if there is one, else "cpu"; or a PyTorch device name."""
    threads: int = 0
    """CPU threads; 0 for as many as there are cores, with an asynchronous source for one."""
    validation: Validation = field(default_factory=Validation)
    """How the run is validated."""
    checkpoint_every: int = 1000
    """Updates between two checkpoints; one is always written at the end."""
    snapshot_every: int = 0
    """Updates between two copies of the weights that are kept, 13 MB each; 0 for none.

    The weights of the last update, or of a planned stop, are kept as well."""
    tensorboard: bool = False
    """Write the measurements also as TensorBoard events; needs the extra `tensorboard`."""

    def __post_init__(self) -> None:
        for name, kinds_there in _own_kinds().items():
            object.__setattr__(self, name, _wrapped(getattr(self, name), kinds_there))
        if not isinstance(self.threat, Linf | L2 | CustomThreat):
            raise ConfigError.expected(
                "the threat of a run must be Linf, L2 or CustomThreat, which config.json can hold",
                kind_text(self.threat),
                f"Pass {CustomThreat.example}.",
            )
        object.__setattr__(self, "attack", _aimed(self.attack, self.threat))
        if isinstance(self.objective, Certified):
            self.objective.check(self.attack)
        at_least("data_memory", self.data_memory, 0)
        self.conversion()
        at_least("trainers", self.trainers, 1)
        if self.batch_size % self.trainers:
            raise ConfigError(
                "batch_size must be a multiple of trainers, because each has an equal part of "
                f"every batch; got {self.batch_size} images for {self.trainers} trainers. Take "
                f"{-(-self.batch_size // self.trainers) * self.trainers}."
            )
        at_least("threads", self.threads, 0)
        at_least("checkpoint_every", self.checkpoint_every, 1)
        at_least("snapshot_every", self.snapshot_every, 0)
        within("average", self.average, "[0, 1)", "0 trains without averaging.")
        if self.clip_norm is not None:
            positive("clip_norm", self.clip_norm, "Leave it out (null) for no clipping.")
        builtin: dict[str, Any] = {name: None for name in OWN if is_own(getattr(self, name))}
        if "attack" in builtin:  # checked once it is made: code of a file must not run unasked
            builtin = {"attack": PGD(), "eps_schedule": None}
        self._recipe(0, {"augmentation": (), **builtin})

    @property
    def pgd(self) -> PGD:
        """The training attack. Raises `ConfigError` for one of your own."""
        if not isinstance(self.attack, PGD):
            raise ConfigError.expected("attack must be PGD", type(self.attack).__name__)
        return self.attack

    @property
    def computing_threads(self) -> int:
        """CPU threads of the trainer and of each worker; 0 for as many as there are cores.

        Beside workers, one: they have the other cores, and the bits of an attack depend on the
        number of threads but not on the process.
        """
        return self.threads or int(isinstance(self.source, Asynchronous))

    def conversion(self) -> Conversion:
        """How pictures are converted. Raises `ConfigError` for a size below 1."""
        return Conversion(image_size=self.image_size, channels=self.channels)

    def recipe(self, rank: int = 0) -> Recipe:
        """How the batches of the trainer of this rank are made.

        Makes the objects of your own. Raises `ConfigError` for settings of attack and source that
        contradict each other.
        """
        own: dict[str, Any] = {
            name: made(getattr(self, name), name) for name in ("attack", "eps_schedule")
        }
        own["attack"] = aimed_at(self.threat, own["attack"])
        steps = tuple(made(step, "augmentation") for step in self.augmentation)
        recipe = self._recipe(rank, {"augmentation": steps, **own})
        check_source(self.source, recipe)
        return recipe

    def _recipe(self, rank: int, own: Mapping[str, Any]) -> Recipe:
        attack = own.get("attack", self.attack)
        schedule = own.get("eps_schedule", self.eps_schedule)
        if schedule == Constant() and not isinstance(attack, PGD):
            schedule = None  # which an attack that is not in steps may have
        return Recipe(
            attack=attack,
            batch_size=self.batch_size,
            updates=self.updates,
            seed=self.seed,
            eps_schedule=schedule,
            early_steps=self.early_steps,
            fresh_steps=self.source.fresh_steps,
            augmentation=own["augmentation"],
            split=self.source.split,
            rank=rank,
            world_size=self.trainers,
        )


def stored_config(run: RunDirectory, *, trust_code: bool = False) -> TrainConfig:
    """The settings of a run, to be trained by again.

    Raises `RunError` or `ConfigError` for a file that is damaged, and for code that the settings
    name, unless you trained the run on this machine, or with `trust_code`.
    """
    config = from_json(TrainConfig, read_json(run.config), where=str(run.config))
    check_trusted(run.config, named_code(to_json(config)), trust_code=trust_code)
    return config


def opened(config: TrainConfig) -> Dataset:
    """The data that the settings name; pictures are decoded only where they are looked at."""
    return open_dataset(config.data, config.conversion(), data_memory=config.data_memory)


def with_given(config: TrainConfig, given: Mapping[str, object] | None) -> TrainConfig:
    """The settings with the Python objects, by the names of their settings, that `train` had.

    Raises `ConfigError` for other names or objects.
    """
    if not given:
        return config
    found = replace(config, **dict(given))  # pyright: ignore[reportArgumentType]
    if to_json(found) != to_json(config):
        raise ConfigError.expected(
            "given must hold the objects that were passed to train, in "
            f"{', '.join(python_objects(config)) or 'none of the settings'}",
            ", ".join(given),
        )
    return found


def python_objects(config: TrainConfig) -> Mapping[str, object]:
    """Settings that hold Python objects, by name."""
    found = {name: getattr(config, name) for name in _own_kinds()}
    return {name: value for name, value in found.items() if "PythonObject(" in repr(value)}


def with_own(config: TrainConfig, change: Callable[[Any], Any]) -> TrainConfig:
    """The settings with `change` applied to each object of your own."""

    def changed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(changed, value))
        return change(value) if is_own(value) else value

    own: Any = {name: changed(getattr(config, name)) for name in (*_own_kinds(), "threat")}
    if isinstance(config.attack, BUILT_IN):
        own["attack"] = config.attack.against(changed(config.attack.threat))
    return replace(config, **own)


@functools.cache
def _own_kinds() -> Mapping[str, tuple[type, ...]]:
    """Record classes of each setting that may hold an object of your own."""
    hints = setting_types(TrainConfig)
    found = {name: tuple(kinds(hints[name]).values()) for name in OWN}
    return {**found, "augmentation": tuple(kinds(Augmentation).values())}


def _wrapped(value: Any, records: tuple[type, ...]) -> Any:
    """A Python object as the record that is stored of it; records, and of lists each item."""
    if isinstance(value, tuple):
        return tuple(_wrapped(item, records) for item in value)
    return value if type(value) in records else PythonObject.of(value)


def _aimed(attack: AttackKind, threat: Threat) -> AttackKind:
    """The attack, on the run's threat if it has none; refused if it is of another norm."""
    if not isinstance(attack, BUILT_IN):
        return attack
    if attack.threat is DEFAULT:
        return attack.against(threat)
    names = [getattr(one, "factory", type(one)) for one in (threat, attack.threat)]
    if names[0] != names[1]:
        raise ConfigError(
            "threat and attack.threat must be of one norm, because a network withstands what it is "
            f"trained against; got {threat} to withstand and {attack.threat} to train against. Give"
            f" both: attack={type(attack).__name__}(threat={threat}) in Python; --threat sets both."
        )
    return attack


def for_trainers(config: TrainConfig, trainers: int, scaling: str | None = None) -> TrainConfig:
    """The settings for this number of trainers.

    Settings of one trainer are scaled by `linearly_scaled`, or only split with the scaling "none".
    Settings for this number are returned as they are. Raises `ConfigError` for another number.
    """
    if scaling is not None and trainers == 1:
        raise ConfigError.expected(
            "scaling needs several trainers",
            "one",
            "Start them with: torchrun --nproc-per-node 2 -m sparring train …",
        )
    if config.trainers == 1:
        if scaling == "none":
            return replace(config, trainers=trainers)
        return linearly_scaled(config, trainers)
    if scaling == "linear":
        raise ConfigError.expected(
            "scaling linear needs settings of one trainer, those of several are scaled already",
            f"trainers = {config.trainers}",
            "Leave it out.",
        )
    if config.trainers != trainers:
        raise ConfigError.expected(
            "trainers must be the number of processes",
            f"{config.trainers} in the settings and {trainers} processes",
            f"Take: {launcher(config.trainers)} train …",
        )
    return config


def linearly_scaled(config: TrainConfig, trainers: int) -> TrainConfig:
    """The same run for several trainers, each with batches as large as those of one trainer.

    Batch and learning rate are multiplied by `trainers`. Updates, and intervals counted in them,
    are divided and rounded up. The decay of averaged weights is that of as many images. Shares of a
    run, staleness and momentum are kept. Where the schedule would begin above the unscaled rate, it
    is warmed up from that rate; one of your own is kept.
    """
    if trainers == 1:
        return config
    validation = config.validation
    return replace(
        config,
        trainers=trainers,
        batch_size=config.batch_size * trainers,
        updates=_divided(config.updates, trainers),
        optimizer=scaled_optimizer(config.optimizer, trainers),
        schedule=_warmed_up(config.schedule, trainers),
        average=config.average**trainers,
        checkpoint_every=_divided(config.checkpoint_every, trainers),
        snapshot_every=_divided(config.snapshot_every, trainers),
        validation=replace(
            validation,
            every=_divided(validation.every, trainers),
            alarm_every=_divided(validation.alarm_every, trainers),
        ),
    )


def _warmed_up(schedule: LearningRateSchedule, trainers: int) -> LearningRateSchedule:
    if not isinstance(schedule, Constant | WarmUp | Triangular | OneCycle | Steps):
        return schedule
    if schedule(0.0) <= 1 / trainers:
        return schedule
    return Gradual(share=WARM_UP, start=1 / trainers, then=schedule)


def _divided(count: int, by: int) -> int:
    return -(-count // by)
