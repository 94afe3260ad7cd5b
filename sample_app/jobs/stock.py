"""Stock: levels, reservations and the suppliers' feeds."""

from __future__ import annotations

from sqlalchemy import Update, func, insert, select, update
from sqlalchemy.orm import Session

from sample_app import clients, db
from sample_app.cache import cache
from sample_app.models import StockLevel, StockMovement


def refresh_stock_levels(skus: list[str]) -> int:
    """Asks the warehouse for the level of each article and caches it."""
    levels = {}
    for sku in skus:
        levels[sku] = clients.stock_of(sku)
    return _cache_levels(levels)


def refresh_levels_at_once(skus: list[str]) -> int:
    """Asks the warehouse for the levels of all articles in one request and caches them."""
    return _cache_levels(clients.stock_of_all(skus))


def _cache_levels(levels: dict[str, int]) -> int:
    cache().mset({f"stock:{sku}": level for sku, level in levels.items()})
    return sum(levels.values())


def import_stock_feed(feed: str, rows: int) -> int:
    """Books a supplier's feed."""
    with db.new_session() as session, session.begin():
        for number in range(rows):
            session.execute(insert(StockMovement).values(feed=feed, sku=f"SKU-{number:05}", quantity=number % 7))
        return _booked(session, feed)


def import_stock_feed_in_bulk(feed: str, rows: int) -> int:
    """Books a supplier's feed with one statement."""
    movements = [{"feed": feed, "sku": f"SKU-{number:05}", "quantity": number % 7} for number in range(rows)]
    with db.new_session() as session, session.begin():
        session.execute(insert(StockMovement), movements)
        return _booked(session, feed)


def _booked(session: Session, feed: str) -> int:
    quantity = session.scalar(select(func.sum(StockMovement.quantity)).where(StockMovement.feed == feed))
    return int(quantity or 0)


def recount_warehouse(warehouse: str) -> int:
    """Compares the shelves with the warehouse's own count, with the rows locked so that nobody sells meanwhile."""
    with db.new_session() as session, session.begin():
        levels = session.scalars(
            select(StockLevel).where(StockLevel.warehouse == warehouse).order_by(StockLevel.id).with_for_update()
        ).all()
        difference = 0
        for level in levels[:30]:
            difference += clients.stock_of(level.sku) - level.on_hand
    return difference


def reserve_stock(order_id: int, sku: str, quantity: int) -> str:
    """Takes articles off the shelf for an order."""
    with db.new_session() as session, session.begin():
        session.execute(
            update(StockLevel)
            .where(StockLevel.warehouse == "north", StockLevel.sku == sku)
            .values(on_hand=StockLevel.on_hand - quantity)
        )
    return f"{order_id}: {quantity} x {sku}"


def reserve_stock_in_ledger(order_id: int, sku: str, quantity: int) -> str:
    """Books the reservation as a movement of its own: nobody has to wait for the shelf's row."""
    with db.new_session() as session, session.begin():
        session.execute(insert(StockMovement).values(feed=f"order-{order_id}", sku=sku, quantity=-quantity))
    return f"{order_id}: {quantity} x {sku}"


def move_stock(skus: list[str], quantity: int) -> int:
    """Takes articles from the shelf to the window, one after the other."""
    with db.new_session() as session, session.begin():
        for sku in skus:
            session.execute(_taken([sku], quantity))
    return len(skus)


def move_stock_in_order(skus: list[str], quantity: int) -> int:
    """Takes articles from the shelf to the window: locks their rows first, in one order, and then changes them."""
    with db.new_session() as session, session.begin():
        here = (StockLevel.warehouse == "south", StockLevel.sku.in_(skus))
        session.execute(select(StockLevel.id).where(*here).order_by(StockLevel.id).with_for_update())
        session.execute(_taken(skus, quantity))
    return len(skus)


def _taken(skus: list[str], quantity: int) -> Update:
    return (
        update(StockLevel)
        .where(StockLevel.warehouse == "south", StockLevel.sku.in_(skus))
        .values(on_hand=StockLevel.on_hand - quantity)
    )
