"""Adversarial batches for any training loop: `AdversarialLoader` and the sources behind it."""

from sparring.engine.transports.kinds import Processes, Ray, SlowLink, TransportKind
from sparring.loader.asynchronous import Asynchronous
from sparring.loader.loader import AdversarialLoader
from sparring.loader.source import Place, Source, SourceSetup
from sparring.loader.sources import Fresh, Reused, SourceKind, Stale

__all__ = [
    "AdversarialLoader",
    "Asynchronous",
    "Fresh",
    "Place",
    "Processes",
    "Ray",
    "Reused",
    "SlowLink",
    "Source",
    "SourceKind",
    "SourceSetup",
    "Stale",
    "TransportKind",
]
