"""Shipping: quotes, labels, pickups and tracking."""

from __future__ import annotations

import datetime as dt
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import requests
from sqlalchemy import select, update

from sample_app import clients, db
from sample_app.cache import cache
from sample_app.models import Customer, Order, Shipment

#: What the customs office may take for an answer, in seconds.
ANSWER_S = 0.3


def quote_shipping(order_id: int) -> str:
    """Asks the carrier what it takes for an order."""
    answer = requests.get(f"{clients.upstream_url()}/rates/{_country(order_id)}")
    answer.raise_for_status()
    return _quoted(order_id, answer.json()["rate"])


def quote_shipping_in_time(order_id: int) -> str:
    """Asks the carrier what it takes for an order; a carrier that does not answer is given up."""
    answer = requests.get(f"{clients.upstream_url()}/rates/{_country(order_id)}", timeout=clients.TIMEOUT)
    answer.raise_for_status()
    return _quoted(order_id, answer.json()["rate"])


def _country(order_id: int) -> str:
    with db.new_session() as session:
        query = select(Customer.country).join(Order, Order.customer_id == Customer.id).where(Order.id == order_id)
        return session.scalars(query).one()


def _quoted(order_id: int, rate: str) -> str:
    cache().set(f"quote:{order_id}", rate)
    return rate


def await_pickup(shipment_id: int) -> str:
    """Waits until the carrier has confirmed that it fetches a parcel."""
    while not clients.pickup_confirmed(shipment_id):
        time.sleep(0.1)
    return _collected(shipment_id)


def confirm_pickup(shipment_id: int) -> str:
    """Notes that the carrier fetches a parcel; enqueued when the carrier says so."""
    if not clients.pickup_confirmed(shipment_id):
        return "packed"
    return _collected(shipment_id)


def _collected(shipment_id: int) -> str:
    with db.new_session() as session, session.begin():
        session.execute(update(Shipment).where(Shipment.id == shipment_id).values(status="collected"))
    return "collected"


def print_label(order_id: int) -> str:
    """Prints the label of a parcel; the zones come from the cache that the carriers' import fills."""
    zone = str(cache().hget("zones", _country(order_id)))
    cache().set(f"label:{order_id}", f"{order_id}/{zone}")
    return f"{order_id}/{zone}"


def announce_parcels(shipment_ids: list[int]) -> int:
    """Tells the carrier which parcels to expect."""
    for shipment_id in shipment_ids:
        requests.put(f"{clients.upstream_url()}/parcels/{shipment_id}", timeout=clients.TIMEOUT).raise_for_status()
    return len(shipment_ids)


def announce_over_one_connection(shipment_ids: list[int]) -> int:
    """Tells the carrier which parcels to expect, over the shop's keep-alive session."""
    for shipment_id in shipment_ids:
        answer = clients.http().put(f"{clients.upstream_url()}/parcels/{shipment_id}", timeout=clients.TIMEOUT)
        answer.raise_for_status()
    return len(shipment_ids)


def print_manifest(shipment_ids: list[int]) -> int:
    """Prints the lines of a truck's manifest while a thread looks them up."""
    lines: queue.Queue[str] = queue.Queue()

    def look_up() -> None:
        for shipment_id in shipment_ids:
            lines.put(_manifest_line(shipment_id))

    threading.Thread(target=look_up, daemon=True).start()
    return _printed(shipment_ids, [lines.get() for _ in shipment_ids])


def print_manifest_of_known(shipment_ids: list[int]) -> int:
    """Prints the lines of a truck's manifest while a thread looks them up; parcels that nobody knows are left out."""
    with ThreadPoolExecutor(1) as threads:
        coming = [threads.submit(_manifest_line, shipment_id) for shipment_id in shipment_ids]
        lines = [line.result(timeout=clients.TIMEOUT) for line in coming if not line.exception(clients.TIMEOUT)]
    return _printed(shipment_ids, lines)


def _manifest_line(shipment_id: int) -> str:
    with db.new_session() as session:
        return f"{shipment_id}: {session.get_one(Shipment, shipment_id).status}"


def _printed(shipment_ids: list[int], lines: list[str]) -> int:
    cache().set(f"manifest:{shipment_ids[0]}", "\n".join(lines))
    return len(lines)


def plan_routes(day: str) -> int:
    """Has the routes of a day planned by the route service."""
    return clients.planned_routes(day)


def update_tracking(shipment_id: int) -> str:
    """Fetches where a parcel is."""
    return _tracked(shipment_id)


def track_promptly(shipment_id: int) -> str:
    """Fetches where a parcel is, from a queue of short jobs."""
    return _tracked(shipment_id)


def _tracked(shipment_id: int) -> str:
    where = clients.tracking(shipment_id)
    with db.new_session() as session, session.begin():
        session.execute(update(Shipment).where(Shipment.id == shipment_id).values(status=where))
    return where


def declare_parcel(shipment_id: int) -> str:
    """Has the customs form of a parcel filled in."""
    return _declared(shipment_id, clients.customs_form(shipment_id))


def declare_or_postpone(shipment_id: int) -> str:
    """Has the customs form of a parcel filled in. What customs do not answer at once is asked for again at night."""
    try:
        form = clients.customs_form(shipment_id, ANSWER_S)
    except requests.Timeout:
        return _declared(shipment_id, "postponed")
    return _declared(shipment_id, form)


def _declared(shipment_id: int, form: str) -> str:
    cache().set(f"customs:{shipment_id}", form)
    return form


def check_addresses(day: str) -> None:
    """Looks for parcels of a day without an address."""
    _without_address(day)


def report_addresses(day: str) -> dict[str, int]:
    """Looks for parcels of a day without an address, and says how many there are."""
    found, looked_at = _without_address(day)
    return {"parcels": looked_at, "without_address": len(found)}


def _without_address(day: str) -> tuple[list[int], int]:
    with db.new_session() as session:
        orders = session.execute(
            select(Order.id, Customer.country)
            .join(Customer, Customer.id == Order.customer_id)
            .where(Order.day >= dt.date.fromisoformat(day))
        ).all()
    return [order_id for order_id, country in orders if not country], len(orders)


def tariffs(countries: list[str]) -> dict[str, str]:
    """What a parcel costs to each country; enqueued by each page that shows it."""
    return {country: clients.rate_to(country) for country in countries}


def keep_tariffs(countries: list[str]) -> dict[str, str]:
    """What a parcel costs to each country, kept for the pages that show it; enqueued when the carrier changes it."""
    found = {country: clients.rate_to(country) for country in countries}
    cache().hset("tariffs", mapping={**found})
    return found
