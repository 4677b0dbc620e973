"""Checks of settings that several records share."""

from sparring.errors import ConfigError


def at_least(name: str, value: int, least: int) -> None:
    """Refuse a count below the least that means anything. Raises `ConfigError`."""
    if value < least:
        raise ConfigError(
            f"{name} must be {least} or more because it counts things; got {value}. "
            f"Give a larger number."
        )
