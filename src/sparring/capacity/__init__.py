"""Capacity: how fast training on many devices can be, by formula, simulation and measurement.

`plan` chooses a layout of trainers and workers for the devices of a `Site`. `Costs` is the closed
formula of one trainer, `Simulation` a run on a virtual clock, `emulate` one of processes that
sleep, and `EngineStats` what a finished run's log says. Names that need torch are imported on first
use.
"""

import importlib
from typing import TYPE_CHECKING

from sparring.capacity.assumptions import (
    Assumptions,
    BatchCosts,
    DeviceFigures,
    Quantity,
    costs_of_run,
    papers_costs,
)
from sparring.capacity.engine_stats import LEDGER, EngineStats, costs_from_log
from sparring.capacity.formula import CHECKPOINT, AllReduce, Costs, Layout, Site
from sparring.capacity.planning import (
    Forecast,
    Plan,
    PlanRequest,
    Saturation,
    forecast,
    plan,
    saturation,
)
from sparring.capacity.simulation import (
    MultiTrainerResult,
    MultiTrainerSimulation,
    Simulation,
    SimulationResult,
)
from sparring.capacity.virtual_clock import SimulatedTransport, VirtualClock

if TYPE_CHECKING:
    from sparring.capacity.emulation import (
        EmulatedJob,
        EmulatedTrainer,
        EmulationResult,
        emulate,
        emulated_workers,
    )
    from sparring.capacity.measuring import (
        FAR_WORKERS,
        PAPERS_PERIOD,
        SECONDS_PER_POINT,
        EngineBenchmark,
        FarSpeedUp,
        Overheads,
        SpeedUp,
        benchmark_engine,
        measure_costs,
        measure_overheads,
        measure_speed_up,
        resident_megabytes,
        simulate_far,
        simulate_speed_up,
        soak,
        timed_costs,
    )

_WITH_TORCH = ("emulation", "measuring")

__all__ = [
    "CHECKPOINT",
    "FAR_WORKERS",
    "LEDGER",
    "PAPERS_PERIOD",
    "SECONDS_PER_POINT",
    "AllReduce",
    "Assumptions",
    "BatchCosts",
    "Costs",
    "DeviceFigures",
    "EmulatedJob",
    "EmulatedTrainer",
    "EmulationResult",
    "EngineBenchmark",
    "EngineStats",
    "FarSpeedUp",
    "Forecast",
    "Layout",
    "MultiTrainerResult",
    "MultiTrainerSimulation",
    "Overheads",
    "Plan",
    "PlanRequest",
    "Quantity",
    "Saturation",
    "SimulatedTransport",
    "Simulation",
    "SimulationResult",
    "Site",
    "SpeedUp",
    "VirtualClock",
    "benchmark_engine",
    "costs_from_log",
    "costs_of_run",
    "emulate",
    "emulated_workers",
    "forecast",
    "measure_costs",
    "measure_overheads",
    "measure_speed_up",
    "papers_costs",
    "plan",
    "resident_megabytes",
    "saturation",
    "simulate_far",
    "simulate_speed_up",
    "soak",
    "timed_costs",
]


def __getattr__(name: str) -> object:
    """Import a name from a module that loads torch."""
    if name in __all__:
        for module in _WITH_TORCH:
            names = vars(importlib.import_module(f"sparring.capacity.{module}"))
            if name in names:
                return names[name]
    raise AttributeError(f"module 'sparring.capacity' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
