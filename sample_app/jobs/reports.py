"""Reports: for the owners, the accountants and the archive."""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine, func, select

from sample_app import clients, db
from sample_app.memory_guard import MemoryGuard
from sample_app.models import Customer, Order, OrderItem, Product

INVOICE_BYTES = 40_000


def export_invoices(first_day: str, days: int) -> str:
    """Renders the invoices of some days into one document and gives its checksum."""
    guard = MemoryGuard()
    document: list[bytes] = []
    for invoice in _invoices(first_day, days):
        document.append(invoice)
        guard.check()
    return hashlib.sha1(b"".join(document)).hexdigest()


def export_page_by_page(first_day: str, days: int) -> str:
    """Renders the invoices of some days, one after the other, into a file and gives its checksum."""
    guard = MemoryGuard()
    checksum = hashlib.sha1()
    with tempfile.TemporaryFile() as document:
        for invoice in _invoices(first_day, days):
            document.write(invoice)
            checksum.update(invoice)
            guard.check()
    return checksum.hexdigest()


def _invoices(first_day: str, days: int) -> Iterator[bytes]:
    day = dt.date.fromisoformat(first_day)
    query = (
        select(Order.id, Order.total_cents)
        .where(Order.day >= day, Order.day < day + dt.timedelta(days=days))
        .order_by(Order.id)
        .execution_options(yield_per=200)
    )
    with db.new_session() as session:
        for order_id, cents in session.execute(query):
            yield f"Invoice {order_id}: {cents / 100:.2f}".encode().ljust(INVOICE_BYTES)


def revenue_by_country(day: str) -> int:
    """Adds up what each country has bought since a day, with a thread for each."""
    return _revenue(db.reporting_engine(), day)


def revenue_in_parallel(day: str) -> int:
    """Adds up what each country has bought since a day, with a thread and a connection for each."""
    return _revenue(db.threaded_engine(), day)


def _revenue(engine: Engine, day: str) -> int:
    def of_country(country: str) -> int:
        with engine.connect() as connection:
            query = (
                select(func.sum(OrderItem.quantity * Product.price_cents))
                .join(Order, Order.id == OrderItem.order_id)
                .join(Customer, Customer.id == Order.customer_id)
                .join(Product, Product.price_cents >= OrderItem.price_cents)
                .where(Customer.country == country, Order.day >= dt.date.fromisoformat(day), Product.category == 0)
            )
            return int(connection.scalar(query) or 0)

    with ThreadPoolExecutor(db.REPORT_THREADS) as threads:
        return sum(threads.map(of_country, ("DE", "FR", "IT", "NL", "PL", "AT")))


def build_sales_report(day: str) -> int:
    """Has the sales report of a day rendered by the report service."""
    return clients.rendered_report(day)
