"""Asynchronous attacks: workers attack tickets with slightly old weights, the trainer trains.

`Broker` decides everything under a `Policy`; transports carry out what it says.
"""

from sparring.engine.attacker import AttackJob
from sparring.engine.broker import Broker
from sparring.engine.engine import Engine, LocalExecutor, Timings
from sparring.engine.lease import Lease, Ledger, Ready, Work
from sparring.engine.policies import FixedLag, Newest, Policy, PolicyKind, Sharded, Sync
from sparring.engine.simulation import Played, Simulation
from sparring.engine.speed import Costs

__all__ = [
    "AttackJob",
    "Broker",
    "Costs",
    "Engine",
    "FixedLag",
    "Lease",
    "Ledger",
    "LocalExecutor",
    "Newest",
    "Played",
    "Policy",
    "PolicyKind",
    "Ready",
    "Sharded",
    "Simulation",
    "Sync",
    "Timings",
    "Work",
]
