"""Which parameters each cell has seen, counted exactly in bounded memory: a table of hashes with open addressing.

A pair of cell and parameters is one 64-bit word, mixed so that two cells cannot disturb one another (the parameters
are a hash already). The table doubles when it is three quarters full.
"""

from __future__ import annotations

from array import array

from jobdoctor.capture.layout import DISTINCT_CELL_FACTOR, DISTINCT_FACTOR, DISTINCT_TOTAL

_WORD = 0xFFFF_FFFF_FFFF_FFFF
_FIRST_BITS = 6


class Distinct:
    """The pairs seen in one execution, at most ``DISTINCT_TOTAL``."""

    __slots__ = ("_shift", "_table", "_used")

    def __init__(self) -> None:
        self._used = 0
        self._make(_FIRST_BITS)

    def _make(self, bits: int) -> None:
        self._shift = 64 - bits
        self._table = array("Q", bytes(8 << bits))

    def add(self, cell: int, params: int, room: bool) -> bool | None:
        """True when the pair is new and is kept, False when it was known, None when there is no room for a new one
        (in the cell, which is for the caller to say, or in the table)."""
        pair = (params * DISTINCT_FACTOR + cell * DISTINCT_CELL_FACTOR) & _WORD or 1
        at = self._find(pair)
        table = self._table
        if table[at]:
            return False
        if not room or self._used >= DISTINCT_TOTAL:
            return None
        table[at] = pair
        self._used += 1
        if self._used * 4 > len(table) * 3:
            self._make(64 - self._shift + 1)
            for pair in table:
                if pair:
                    self._table[self._find(pair)] = pair
        return True

    def _find(self, pair: int) -> int:
        """Where the pair is, or the free place where it belongs."""
        table = self._table
        last = len(table) - 1
        at = pair >> self._shift
        while table[at] and table[at] != pair:
            at = (at + 1) & last
        return at
