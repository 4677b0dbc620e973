"""Rows of an asynchronous run's log whose every number is known."""

from sparring.records import Row


def row(step: int, **more: object) -> Row:
    """A worker attacks for 80 ms and copies for 4, the trainer waits 20 and updates for 10.

    Then it sees to the workers for 3, in one of which it publishes.
    """
    figures: Row = {
        "step": step,
        "loss": 1.0,
        "staleness": 3,
        "attack_seconds": 0.08,
        "supply_seconds": 0.021,
        "update_seconds": 0.010,
        "worker": "0",
        "workers": 4,
        "workers_attack_seconds": 0.08,
        "workers_overhead_seconds": 0.004,
        "staleness_behind": 0,
        "staleness_in_flight": 2,
        "staleness_waiting": 1,
        "ready": 1,
        "leased": 6,
        "help_seconds": 0.0,
        "wait_seconds": 0.020,
        "publish_seconds": 0.001,
        "commit_seconds": 0.003,
    }
    return figures | {name: value for name, value in more.items() if isinstance(value, int | str)}
