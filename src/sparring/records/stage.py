"""The stages of an attack, by which leases and batches name its steps.

Here, where nothing imports torch: a worker ends with its trainer only once the engine is imported.
"""

from typing import Literal

Stage = Literal["whole", "first", "last"]
"""Steps of an attack: all, all but the fresh ones, or the fresh ones."""
IN_TURN: tuple[Stage, Stage] = ("first", "last")
"""The two that together are the whole attack."""
