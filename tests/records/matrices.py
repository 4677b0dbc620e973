"""Transfer matrices for tests: counts that fit together, whatever they are."""

from collections.abc import Sequence

from sparring.records import Cell, Proportion, TransferMatrix, describe


def matrix_of(
    right: Sequence[Sequence[Sequence[int]]],
    *,
    networks: Sequence[str] = ("fast-0", "natural"),
    steps: Sequence[int] = (1, 8),
    total: int = 100,
) -> TransferMatrix:
    """Of two attacks one breaks all that the other does; `right` is [steps][source][target]."""
    cells = tuple(
        tuple(
            tuple(
                Cell(
                    right=count,
                    only_transferred=max(0, table[target][target] - count),
                    only_white_box=max(0, count - table[target][target]),
                )
                for target, count in enumerate(row)
            )
            for row in table
        )
        for table in right
    )
    return TransferMatrix(
        networks=tuple(networks),
        steps=tuple(steps),
        threat="Linf 0.3",
        natural=tuple(Proportion(successes=total, total=total) for _ in networks),
        cells=cells,
        num_images=total,
        seed=0,
        seconds=1.5,
        environment=describe(threads=1, device="cpu", precision="fp32 direct"),
    )
