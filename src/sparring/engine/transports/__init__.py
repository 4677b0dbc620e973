"""Ways to carry leases to workers and results back, behind one protocol.

Those that need more than Python have a module of their own: `process`.
"""

from sparring.engine.transports.protocol import Died, Done, Event, Transport, Up

__all__ = [
    "Died",
    "Done",
    "Event",
    "Transport",
    "Up",
]
