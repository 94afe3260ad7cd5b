"""Parcel labels, with the carriers' zones."""

from __future__ import annotations

from sqlalchemy import select

from sample_app import carrier_zones, db
from sample_app.cache import cache
from sample_app.models import Customer, Order


def print_label(order_id: int) -> str:
    """Prints the label of a parcel."""
    with db.new_session() as session:
        query = select(Customer.country).join(Order, Order.customer_id == Customer.id).where(Order.id == order_id)
        zone = carrier_zones.zone_of(session.scalars(query).one())
    cache().set(f"label:{order_id}", f"{order_id}/{zone}")
    return f"{order_id}/{zone}"
