"""Asynchronous attacks: workers attack tickets with slightly old weights, the trainer trains.

`Broker` makes all decisions under a `Policy`, and transports carry them out.
"""

from sparring.engine.broker import Broker
from sparring.engine.engine import Engine, LocalExecutor, Timings
from sparring.engine.lease import Lease, Ledger, Ready, Work
from sparring.engine.policies import FixedLag, Newest, Policy, PolicyKind, Sharded, Sync

__all__ = [
    "Broker",
    "Engine",
    "FixedLag",
    "Lease",
    "Ledger",
    "LocalExecutor",
    "Newest",
    "Policy",
    "PolicyKind",
    "Ready",
    "Sharded",
    "Sync",
    "Timings",
    "Work",
]
