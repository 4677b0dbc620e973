"""Ways to carry leases to workers and results back, behind one protocol."""

from sparring.engine.transports.process import ProcessTransport
from sparring.engine.transports.protocol import Died, Done, Event, Transport
from sparring.engine.transports.simulated import SimulatedTransport, VirtualClock

__all__ = [
    "Died",
    "Done",
    "Event",
    "ProcessTransport",
    "SimulatedTransport",
    "Transport",
    "VirtualClock",
]
