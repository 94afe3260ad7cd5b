"""What the overhead is measured with. Each job says what one execution of it does."""

from __future__ import annotations

import time

from sqlalchemy import select

from sample_app import clients, db
from sample_app.cache import cache
from sample_app.models import OrderItem, Product


def no_op() -> None:
    """Nothing: what is left is RQ's own work and ours."""


def orm_queries() -> int:
    """501 ORM queries: 500 order lines, and the order of each by a query of its own (N+1)."""
    with db.new_session() as session:
        items = session.scalars(select(OrderItem).where(OrderItem.id % 4 == 0).limit(500)).all()
        return sum(item.order.total_cents for item in items)


def redis_commands() -> int:
    """300 single Redis commands."""
    client = cache()
    for number in range(150):
        client.set(f"bench:{number}", number)
    return sum(int(client.get(f"bench:{number}") or 0) for number in range(150))


def http_requests() -> int:
    """40 requests over one kept connection (requests)."""
    return sum(clients.stock_of(f"SKU-{number:05}") for number in range(40))


def call_heavy() -> int:
    """Pure Python that calls many small functions; about 0.1 s."""
    return _fibonacci(24) + sum(_collatz(number) for number in range(1, 1_500))


def _fibonacci(number: int) -> int:
    return number if number < 2 else _fibonacci(number - 1) + _fibonacci(number - 2)


def _collatz(number: int) -> int:
    steps = 0
    while number != 1:
        number = _halved(number) if _even(number) else 3 * number + 1
        steps += 1
    return steps


def _even(number: int) -> bool:
    return number % 2 == 0


def _halved(number: int) -> int:
    return number // 2


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
