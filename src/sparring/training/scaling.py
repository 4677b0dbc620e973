"""How settings for one trainer become those of several: larger batches and steps, fewer updates.

Source: Goyal et al. 2017, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", sections
2.1 and 2.2: when the batch is multiplied by k, multiply the learning rate by k, and warm it up
from the unscaled one over the first 5 of 90 epochs. Bhat, Tsipras & Madry 2019 propose to combine
it with theirs in their discussion.
"""

from dataclasses import replace

from sparring.training.config import TrainConfig
from sparring.training.schedules import Gradual, LearningRateSchedule

WARM_UP = 5 / 90
"""Share of the run for which the learning rate rises (Goyal et al.)."""


def linearly_scaled(config: TrainConfig, trainers: int) -> TrainConfig:
    """The same run by so many trainers, each with batches as large as the one had.

    Batch and learning rate are multiplied; updates, and whatever is counted in them at intervals,
    divided and rounded up; the decay of averaged weights is that of as many images. Shares of a run
    stay as they are, and so do staleness and momentum, whose unit is the update. Where the schedule
    would begin above the unscaled rate, it is warmed up from there.
    """
    if trainers == 1:
        return config
    rate = config.optimizer.learning_rate * trainers
    looks = config.validation
    return replace(
        config,
        trainers=trainers,
        batch_size=config.batch_size * trainers,
        updates=_divided(config.updates, trainers),
        optimizer=replace(config.optimizer, learning_rate=rate),
        schedule=_warmed_up(config.schedule, trainers),
        average=config.average**trainers,
        checkpoint_every=_divided(config.checkpoint_every, trainers),
        snapshot_every=_divided(config.snapshot_every, trainers),
        validation=replace(
            looks,
            every=_divided(looks.every, trainers),
            alarm_every=_divided(looks.alarm_every, trainers),
        ),
    )


def _warmed_up(schedule: LearningRateSchedule, trainers: int) -> LearningRateSchedule:
    if schedule(0.0) <= 1 / trainers or isinstance(schedule, Gradual):
        return schedule
    return Gradual(share=WARM_UP, start=1 / trainers, then=schedule)


def _divided(count: int, by: int) -> int:
    return -(-count // by)
