"""Names that were meant."""

from __future__ import annotations

import pytest

from jobdoctor.near import meant, nearest

JOBS = ["shop.jobs.stock.reserve_stock", "shop.jobs.stock.move_stock", "shop.jobs.mail.send", "other.mail.send"]
JOBS += ["app.fetch_quite_a_lot_of_them", "app.fetch_all", "app.etch"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("reserve_stok", ["shop.jobs.stock.reserve_stock"]),
        ("Reserve_Stock", ["shop.jobs.stock.reserve_stock"]),
        ("shop.jobs.stock.reserve_stok", ["shop.jobs.stock.reserve_stock", "shop.jobs.stock.move_stock"]),
        ("remove_stock", ["shop.jobs.stock.move_stock", "shop.jobs.stock.reserve_stock"]),
        ("mail.sent", ["shop.jobs.mail.send", "other.mail.send"]),
        ("reserve", ["shop.jobs.stock.reserve_stock"]),
        ("fetch", ["app.fetch_all", "app.fetch_quite_a_lot_of_them"]),  # begun, however much is missing
        ("zzz", []),
        ("", []),
    ],
)
def test_by_the_last_parts_in_any_case(name: str, found: list[str]) -> None:
    assert nearest(name, JOBS) == found


def test_in_words() -> None:
    assert meant("mail.sent", JOBS) == "did you mean shop.jobs.mail.send or other.mail.send?"
    assert meant("zzz", JOBS) == ""
