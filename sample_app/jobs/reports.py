"""Reports: for the owners, the accountants and the archive."""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine, Executable, func, select

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


def seal_invoices(first_day: str, days: int) -> str:
    """The seal of the tax office under the invoices of some days: a checksum over all of them."""
    return hashlib.sha1(b"".join(list(_invoices(first_day, days)))).hexdigest()


def seal_page_by_page(first_day: str, days: int) -> str:
    """The seal of the tax office under the invoices of some days, made while they are rendered."""
    checksum = hashlib.sha1()
    for invoice in _invoices(first_day, days):
        checksum.update(invoice)
    return checksum.hexdigest()


def print_invoices(first_day: str, days: int) -> int:
    """Renders the invoices of some days for the printer, and counts their bytes."""
    with db.new_session() as session:
        pages = [_invoice(order_id, cents) for order_id, cents in session.execute(_orders(first_day, days)).all()]
    with tempfile.TemporaryFile() as printer:
        return printer.write(b"\f".join(pages))


def print_one_by_one(first_day: str, days: int) -> int:
    """Renders the invoices of some days for the printer, each as it is ready, and counts their bytes."""
    written = 0
    with tempfile.TemporaryFile() as printer:
        for invoice in _invoices(first_day, days):
            written += printer.write((b"\f" if written else b"") + invoice)
    return written


def _invoices(first_day: str, days: int) -> Iterator[bytes]:
    with db.new_session() as session:
        for order_id, cents in session.execute(_orders(first_day, days).execution_options(yield_per=200)):
            yield _invoice(order_id, cents)


def _orders(first_day: str, days: int) -> Executable:
    day = dt.date.fromisoformat(first_day)
    query = select(Order.id, Order.total_cents).where(Order.day >= day, Order.day < day + dt.timedelta(days=days))
    return query.order_by(Order.id)


def _invoice(order_id: int, cents: int) -> bytes:
    return f"Invoice {order_id}: {cents / 100:.2f}".encode().ljust(INVOICE_BYTES)


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
