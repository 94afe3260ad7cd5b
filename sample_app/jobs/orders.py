"""Orders: what accounting and the tax office want to know of them."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Executable, select
from sqlalchemy.orm import selectinload

from sample_app import db
from sample_app.cache import cache
from sample_app.models import Customer, Order, TaxRate


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
