"""The shop's own suite with the plugin: sick jobs fail at the gate, their twins pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine

from jobdoctor.capture.probes import registry
from jobdoctor.gate.failure import GateError
from jobdoctor.rq import stamps
from sample_app import seed
from sample_app.jobs import catalog, mail, orders, stock

if TYPE_CHECKING:
    from jobdoctor.gate.doctor import Doctor

DAY = seed.FIRST_DAY.isoformat()


@pytest.fixture(autouse=True)
def _nothing_stays_wrapped() -> Iterator[None]:
    yield
    stamps.uninstall()
    registry.uninstall_all()


def skus(size: int) -> tuple[list[str]]:
    return ([f"SKU-{number:05}" for number in range(1, size + 1)],)


@pytest.mark.jobdoctor(max_queries=2, max_payload="200 B", max_result="1 KiB", no=["JD401", "JD202", "JD404"])
def test_orders_are_synchronised_with_few_queries(shop_engine: Engine, jobdoctor: Doctor) -> None:
    assert jobdoctor.run(orders.sync_orders_eagerly, DAY).result


def test_the_lazy_twin_is_found(shop_engine: Engine, jobdoctor: Doctor) -> None:
    profile = jobdoctor.run(orders.sync_orders, DAY)
    assert "JD401" in [finding.code for finding in profile.findings]
    assert profile.queries > 10


def test_stock_levels_do_not_grow_with_the_list(shop_engine: Engine, jobdoctor: Doctor) -> None:
    jobdoctor.scales(stock.refresh_levels_at_once, sizes=[2, 8], arrange=skus)
    with pytest.raises(GateError, match="2 -> 8 http calls for 2 -> 8 items") as raised:
        jobdoctor.scales(stock.refresh_stock_levels, sizes=[2, 8], arrange=skus)
    assert raised.value.failures[0].rule == "JD402 n-plus-one-http"


def test_prices_are_cached_in_one_round_trip(shop_engine: Engine, jobdoctor: Doctor) -> None:
    jobdoctor.scales(catalog.warm_cache_in_one_go, arrange=lambda size: (1, size))
    with pytest.raises(GateError, match="2 -> 8 redis calls"):
        jobdoctor.scales(catalog.warm_price_cache, arrange=lambda size: (1, size))


@pytest.mark.jobdoctor(idempotent=True, max_calls={"sql": 2})
def test_prices_can_be_cached_twice(shop_engine: Engine, jobdoctor: Doctor) -> None:
    jobdoctor.run(catalog.warm_cache_in_one_go, 1, 8)


def test_a_receipt_is_sent_again(shop_engine: Engine, jobdoctor: Doctor) -> None:
    with pytest.raises(GateError, match="the second run did it again"):
        jobdoctor.assert_idempotent(mail.send_receipt_promptly, 1)
