"""Seeds by what they are for, as data and training derive them (`sparring.records.seeds`)."""

from sparring.records.seeds import derive_seed

__all__ = ["derive_seed"]
