"""Orders: what accounting and the tax office want to know of them."""

from __future__ import annotations

import datetime as dt
import gc
from collections.abc import Iterator

from sqlalchemy import Executable, func, select
from sqlalchemy.orm import selectinload

from sample_app import db
from sample_app.cache import cache
from sample_app.models import Customer, Order, OrderItem, TaxRate

#: Orders of a page, where a day's orders are gone through page by page.
PAGE = 25


def sync_orders(day: str) -> int:
    """Adds up the items of a day's orders for accounting."""
    with db.new_session() as session:
        orders = session.scalars(select(Order).where(Order.day == dt.date.fromisoformat(day))).all()
        total = 0
        for order in orders:
            total += sum(item.quantity * item.price_cents for item in order.items)
    cache().set(f"accounting:{day}", total)
    return total


def sync_orders_eagerly(day: str) -> int:
    """Adds up the items of a day's orders for accounting; the items come in one query."""
    with db.new_session() as session:
        query = select(Order).where(Order.day == dt.date.fromisoformat(day)).options(selectinload(Order.items))
        total = sum(item.quantity * item.price_cents for order in session.scalars(query) for item in order.items)
    cache().set(f"accounting:{day}", total)
    return total


def tax_report(country: str, day: str) -> int:
    """Taxes, in cents, of the orders of a country since a day."""
    with db.new_session() as session:
        taxes = 0
        for order in session.execute(_orders_of(country, day)).all():
            percent = session.scalar(select(TaxRate.percent).where(TaxRate.country == country))
            taxes += int(order.total_cents) * (percent or 0) // 100
    cache().set(f"taxes:{country}:{day}", taxes)
    return taxes


def tax_report_with_rate(country: str, day: str) -> int:
    """Taxes, in cents, of the orders of a country since a day; the rate is looked up once."""
    with db.new_session() as session:
        percent = session.scalar(select(TaxRate.percent).where(TaxRate.country == country)) or 0
        taxes = sum(int(order.total_cents) * percent // 100 for order in session.execute(_orders_of(country, day)))
    cache().set(f"taxes:{country}:{day}", taxes)
    return taxes


def _orders_of(country: str, day: str) -> Executable:
    return (
        select(Order.id, Order.total_cents)
        .join(Customer, Customer.id == Order.customer_id)
        .where(Customer.country == country, Order.day >= dt.date.fromisoformat(day))
        .order_by(Order.id)
        .limit(120)
    )


def best_sellers(day: str) -> int:
    """The article that sold best on a day; memory is tidied up after each page."""
    sold: dict[int, int] = {}
    for page in _pages(day):
        _count(page, sold)
        gc.collect()
    return _best(day, sold)


def best_sellers_untidied(day: str) -> int:
    """The article that sold best on a day."""
    sold: dict[int, int] = {}
    for page in _pages(day):
        _count(page, sold)
    return _best(day, sold)


def _pages(day: str) -> Iterator[list[Order]]:
    with db.new_session() as session:
        query = select(Order).where(Order.day == dt.date.fromisoformat(day)).options(selectinload(Order.items))
        orders = list(session.scalars(query))
        for start in range(0, len(orders), PAGE):
            yield orders[start : start + PAGE]


def _count(orders: list[Order], sold: dict[int, int]) -> None:
    for order in orders:
        for item in order.items:
            sold[item.product_id] = sold.get(item.product_id, 0) + item.quantity


def _best(day: str, sold: dict[int, int]) -> int:
    best = max(sold, key=lambda product_id: (sold[product_id], -product_id))
    cache().set(f"best:{day}", best)
    return best


def price_ranks(day: str) -> int:
    """How many articles that were ever sold are cheaper than each one sold on a day, all added up."""
    other = OrderItem.__table__.alias("other")
    cheaper = select(func.count()).where(other.c.price_cents < OrderItem.price_cents).scalar_subquery()
    with db.new_session() as session:
        query = select(func.sum(cheaper)).select_from(OrderItem).join(Order, Order.id == OrderItem.order_id)
        return _ranked(day, session.scalar(query.where(Order.day == dt.date.fromisoformat(day))))


def price_ranks_by_window(day: str) -> int:
    """How many articles that were ever sold are cheaper than each one sold on a day: the items are ranked once."""
    rank = func.rank().over(order_by=OrderItem.price_cents)
    ranks = select(OrderItem.order_id, (rank - 1).label("cheaper")).subquery()
    with db.new_session() as session:
        query = select(func.sum(ranks.c.cheaper)).join(Order, Order.id == ranks.c.order_id)
        return _ranked(day, session.scalar(query.where(Order.day == dt.date.fromisoformat(day))))


def _ranked(day: str, total: int | None) -> int:
    cache().set(f"ranks:{day}", int(total or 0))
    return int(total or 0)


def turnover(since: str) -> int:
    """What was sold since a day, in cents."""
    with db.new_session() as session:
        query = select(OrderItem).join(Order, Order.id == OrderItem.order_id)
        items = session.scalars(query.where(Order.day >= dt.date.fromisoformat(since)))
        return _turned_over(since, sum(item.quantity * item.price_cents for item in items))


def turnover_by_sum(since: str) -> int:
    """What was sold since a day, in cents; the database adds it up."""
    with db.new_session() as session:
        query = select(func.sum(OrderItem.quantity * OrderItem.price_cents)).join(Order, Order.id == OrderItem.order_id)
        return _turned_over(since, session.scalar(query.where(Order.day >= dt.date.fromisoformat(since))))


def _turned_over(since: str, cents: int | None) -> int:
    cache().set(f"turnover:{since}", int(cents or 0))
    return int(cents or 0)
