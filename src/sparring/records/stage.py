"""The stages of an attack, by which leases and batches name its steps.

They are in this package, which does not import torch, because a worker imports the engine before it
is tied to its trainer.
"""

from typing import Literal

Stage = Literal["whole", "first", "last"]
"""Steps of an attack: all, all but the fresh ones, or the fresh ones."""
IN_TURN: tuple[Stage, Stage] = ("first", "last")
"""The two that together are the whole attack."""
