"""What the overhead is measured with."""

from __future__ import annotations

import time

from sqlalchemy import select

from sample_app import clients, db
from sample_app.cache import cache
from sample_app.models import Product


def no_op() -> None:
    """Nothing: what is left is RQ's own work and ours."""


def mixed() -> int:
    """61 queries, 60 Redis commands, 12 HTTP requests and 20 ms of CPU."""
    with db.new_session() as session:
        cents = sum(
            session.scalars(select(Product.price_cents).where(Product.id == number)).one() for number in range(1, 62)
        )
    for number in range(60):
        cache().set(f"bench:{number}", cents)
    for number in range(12):
        clients.stock_of(f"SKU-{number:05}")
    until = time.thread_time() + 0.02
    while time.thread_time() < until:
        pass
    return cents
