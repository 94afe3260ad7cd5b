"""Mail: receipts, newsletters, alerts and what came back."""

from __future__ import annotations

from sqlalchemy import select

from sample_app import clients, db
from sample_app.cache import cache
from sample_app.models import Customer, Order


def send_newsletter(issue: int, customer_id: int) -> int:
    """Sends an issue to one customer; the gateway's account must not be used twice at a time."""
    with cache().lock("mail-gateway", timeout=30):
        return _newsletter(issue, customer_id)


def send_newsletter_once(issue: int, customer_id: int) -> int:
    """Sends an issue to one customer, who must not get it twice."""
    with cache().lock(f"newsletter:{issue}:{customer_id}", timeout=30):
        return _newsletter(issue, customer_id)


def _newsletter(issue: int, customer_id: int) -> int:
    with db.new_session() as session:
        email = session.scalars(select(Customer.email).where(Customer.id == customer_id)).one()
    return clients.send_mail({"to": email, "subject": f"News {issue}"})


def send_receipt(order_id: int) -> int:
    """Sends the receipt of an order."""
    return _receipt(order_id)


def send_receipt_promptly(order_id: int) -> int:
    """Sends the receipt of an order, from a queue of short jobs."""
    return _receipt(order_id)


def _receipt(order_id: int) -> int:
    with db.new_session() as session:
        query = select(Order.total_cents, Customer.email).join(Order.customer).where(Order.id == order_id)
        cents, email = session.execute(query).one()
    return clients.send_mail({"to": email, "subject": f"Your order {order_id}: {cents / 100:.2f}"})


def send_price_alert(sku: str, customer_id: int) -> int:
    """Tells one customer that an article became cheaper."""
    return _alert(sku, [customer_id])


def send_price_alerts(sku: str, customer_ids: list[int]) -> int:
    """Tells many customers that an article became cheaper: the gateway takes many messages at once."""
    return _alert(sku, customer_ids)


def _alert(sku: str, customer_ids: list[int]) -> int:
    with db.new_session() as session:
        emails = session.scalars(select(Customer.email).where(Customer.id.in_(customer_ids))).all()
    return clients.send_mail(*({"to": email, "subject": f"{sku} is cheaper now"} for email in emails))


def sync_bounces(day: str) -> int:
    """Remembers the addresses that did not take their mail."""
    return _remember_bounces(clients.mail_bounces(day)["bounces"])


def sync_bounces_of_v2(day: str) -> int:
    """Remembers the addresses that did not take their mail, as version 2 of the gateway lists them."""
    return _remember_bounces(clients.mail_bounces(day)["data"])


def _remember_bounces(addresses: list[str]) -> int:
    cache().sadd("bounced", *addresses)
    return len(addresses)
