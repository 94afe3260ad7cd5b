"""Payments: charges, refunds and the fraud check."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import tempfile
from pathlib import Path

import requests
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from sample_app import clients, db
from sample_app.cache import cache
from sample_app.models import Order, StockMovement

#: Orders with a higher score are looked at by a person.
SUSPICIOUS = 0.7


def screen_order(order_id: int) -> bool:
    """Holds an order back when the fraud service finds it suspicious."""
    return _screened(order_id, clients.fraud_score(order_id))


def screen_by_cached_score(order_id: int) -> bool:
    """Holds an order back when its score, which the fraud service pushed at checkout, is suspicious."""
    cached = cache().get(f"fraud:{order_id}")
    return _screened(order_id, float(cached) if cached else clients.fraud_score(order_id))


def _screened(order_id: int, score: float) -> bool:
    suspicious = score > SUSPICIOUS
    with db.new_session() as session, session.begin():
        _set_status(session, order_id, "held" if suspicious else "screened")
    return suspicious


def charge_order(order_id: int) -> str:
    """Charges an order and marks it as paid."""
    with db.new_session() as session, session.begin():
        order = session.get_one(Order, order_id, with_for_update=True)
        clients.charge(order.id, order.total_cents, "valid").raise_for_status()
        order.status = "paid"
    return "paid"


def charge_order_then_save(order_id: int) -> str:
    """Charges an order, with no transaction open, and marks it as paid."""
    with db.new_session() as session:
        cents = session.get_one(Order, order_id).total_cents
    clients.charge(order_id, cents, "valid").raise_for_status()
    with db.new_session() as session, session.begin():
        _set_status(session, order_id, "paid")
    return "paid"


def capture_payment(order_id: int) -> str:
    """Takes the money that was reserved at checkout."""
    order = _order(order_id)
    clients.charge(order.id, order.total_cents, order.card).raise_for_status()
    return _captured(order_id, "paid")


def capture_or_decline(order_id: int) -> str:
    """Takes the money that was reserved at checkout; a refused card is an answer, not an error."""
    order = _order(order_id)
    answer = clients.charge(order.id, order.total_cents, order.card)
    if answer.status_code == requests.codes.payment_required:
        return _captured(order_id, "declined")
    answer.raise_for_status()
    return _captured(order_id, "paid")


def _order(order_id: int) -> Order:
    with db.new_session() as session:
        return session.get_one(Order, order_id)


def _captured(order_id: int, status: str) -> str:
    with db.new_session() as session, session.begin():
        _set_status(session, order_id, status)
    return status


def _set_status(session: Session, order_id: int, status: str) -> None:
    session.execute(update(Order).where(Order.id == order_id).values(status=status))


def refund_order(order_id: int) -> str:
    """Gives the money of an order back."""
    clients.refund(f"order-{order_id}")
    return _captured(order_id, "refunded")


def refund_order_patiently(order_id: int) -> str:
    """Gives the money of an order back; enqueued with pauses between its attempts."""
    clients.refund(f"returned-{order_id}")
    return _captured(order_id, "refunded")


def write_cash_book(day: str) -> str:
    """Writes a day's sales into the cash book, each safely on disk before the next, and gives its checksum."""
    with tempfile.TemporaryDirectory() as directory:
        book = Path(directory, "book.csv")
        for line in _sales(day):
            with book.open("a") as page:
                page.write(line)
                page.flush()
                os.fsync(page.fileno())
        return _closed(day, book)


def write_cash_book_at_once(day: str) -> str:
    """Writes a day's sales into the cash book, safely on disk when it is complete, and gives its checksum."""
    with tempfile.TemporaryDirectory() as directory:
        book = Path(directory, "book.csv")
        with book.open("w") as page:
            page.writelines(_sales(day))
            page.flush()
            os.fsync(page.fileno())
        return _closed(day, book)


def _sales(day: str) -> list[str]:
    with db.new_session() as session:
        query = select(Order.id, Order.total_cents).where(Order.day == dt.date.fromisoformat(day))
        rows = session.execute(query.where(Order.card == "valid").order_by(Order.id))
        return [f"{order_id};{cents}\n" for order_id, cents in rows]


def _closed(day: str, book: Path) -> str:
    checksum = hashlib.sha1(book.read_bytes()).hexdigest()
    cache().set(f"cash-book:{day}", checksum)
    return checksum


def send_voucher(order_id: int) -> str:
    """Says sorry for an order that went wrong: a voucher, by letter."""
    voucher = clients.issue_voucher(order_id)
    clients.print_letter(f"sorry-{order_id}", f"Your voucher: {voucher}")
    return _captured(order_id, "compensated")


def send_voucher_once(order_id: int) -> str:
    """Says sorry for an order that went wrong: one voucher, however often the printer is busy."""
    voucher = clients.issue_voucher(order_id, key=f"sorry-{order_id}")
    clients.print_letter(f"sorry-once-{order_id}", f"Your voucher: {voucher}")
    return _captured(order_id, "compensated")


def charge_subscriptions(month: str, order_ids: list[int]) -> int:
    """Charges the subscriptions of a month."""
    charged = _charged(order_ids)
    cache().hincrby(f"subscriptions:{month}", "charged", charged)
    return charged


def charge_some_subscriptions(month: str, order_ids: list[int]) -> int:
    """Charges a slice of the subscriptions of a month, and says how far the month is."""
    charged = _charged(order_ids)
    return int(cache().hincrby(f"subscriptions:{month}", "charged", charged))


def close_subscriptions(month: str) -> int:
    """Closes a month when all its slices are done."""
    charged = int(str(cache().hget(f"subscriptions:{month}", "charged") or 0))
    cache().set(f"subscriptions:{month}:closed", charged)
    return charged


def _charged(order_ids: list[int]) -> int:
    with db.new_session() as session:
        query = select(Order.id, Order.total_cents).where(Order.id.in_(order_ids)).order_by(Order.id)
        orders = session.execute(query).all()
    for order_id, cents in orders:
        clients.charge(order_id, cents, "valid").raise_for_status()
    with db.new_session() as session, session.begin():
        session.execute(update(Order).where(Order.id.in_(order_ids)).values(status="paid"))
    return len(orders)


def sell_gift_card(order_id: int) -> str:
    """Takes a gift card out of the stock and has it sent, and notes that in the order."""
    with db.new_session() as session, session.begin():
        _take_card(session, order_id)
    clients.print_letter(f"gift-{order_id}", "Your gift card")
    return _captured(order_id, "gift sent")


def sell_gift_card_as_one(order_id: int) -> str:
    """Has a gift card sent, takes it out of the stock and notes that in the order, in one transaction."""
    clients.print_letter(f"card-{order_id}", "Your gift card")
    with db.new_session() as session, session.begin():
        _take_card(session, order_id)
        _set_status(session, order_id, "gift sent")
    return "gift sent"


def _take_card(session: Session, order_id: int) -> None:
    session.execute(insert(StockMovement).values(feed=f"gift-{order_id}", sku="GIFT-CARD", quantity=-1))


def settle_order(order_id: int) -> str:
    """Tells the clearing house that an order is settled."""
    clients.settle(order_id).raise_for_status()
    return "settled"


def settle_or_put_off(order_id: int) -> str:
    """Tells the clearing house that an order is settled. While it is closed, the order is put off until the night."""
    answer = clients.settle(order_id)
    if answer.status_code == requests.codes.service_unavailable:
        cache().rpush("settle:tonight", order_id)
        return "put off"
    answer.raise_for_status()
    return "settled"
