"""Transports, which carry leases to workers and results back, behind one protocol."""

from sparring.engine.transports.protocol import Died, Done, Event, Transport, Up

__all__ = [
    "Died",
    "Done",
    "Event",
    "Transport",
    "Up",
]
