"""Clients of the services the shop depends on: payments, stock, shipping, mail."""

from __future__ import annotations

import functools
import os

import httpx
import requests

#: Connect and read timeout, in seconds.
TIMEOUT = 5


def upstream_url() -> str:
    return os.environ["SHOP_UPSTREAM_URL"]


@functools.cache
def http() -> requests.Session:
    """One keep-alive session for each process."""
    return requests.Session()


@functools.cache
def mail_gateway() -> httpx.Client:
    return httpx.Client(base_url=upstream_url(), timeout=TIMEOUT, trust_env=False)


def stock_of(sku: str) -> int:
    answer = http().get(f"{upstream_url()}/stock/{sku}", timeout=TIMEOUT)
    answer.raise_for_status()
    on_hand: int = answer.json()["on_hand"]
    return on_hand


def stock_of_all(skus: list[str]) -> dict[str, int]:
    answer = http().get(f"{upstream_url()}/stock", params={"sku": skus}, timeout=TIMEOUT)
    answer.raise_for_status()
    return {sku: level["on_hand"] for sku, level in answer.json().items()}


def fraud_score(order_id: int) -> float:
    answer = http().get(f"{upstream_url()}/fraud/{order_id}", timeout=TIMEOUT)
    answer.raise_for_status()
    score: float = answer.json()["score"]
    return score


def charge(order_id: int, cents: int, card: str) -> requests.Response:
    """Asks the payment service for money; the key makes a second request for the same order harmless."""
    return http().post(
        f"{upstream_url()}/payments",
        json={"order": order_id, "amount": cents, "card": card},
        headers={"Idempotency-Key": f"order-{order_id}"},
        timeout=TIMEOUT,
    )


def refund(reference: str) -> None:
    answer = http().post(
        f"{upstream_url()}/refunds/{reference}",
        json={},
        headers={"Idempotency-Key": f"refund-{reference}"},
        timeout=TIMEOUT,
    )
    answer.raise_for_status()


def index_document(sku: str, text: str) -> None:
    answer = http().put(f"{upstream_url()}/search/{sku}", json={"text": text}, timeout=TIMEOUT)
    answer.raise_for_status()


def send_mail(*messages: dict[str, str]) -> int:
    answer = mail_gateway().post("/mail", json=list(messages))
    answer.raise_for_status()
    accepted: int = answer.json()["accepted"]
    return accepted


def mail_bounces(day: str) -> dict[str, list[str]]:
    answer = mail_gateway().get("/mail/bounces", params={"day": day})
    answer.raise_for_status()
    bounces: dict[str, list[str]] = answer.json()
    return bounces


def customs_form(shipment_id: int, timeout_s: float = TIMEOUT) -> str:
    """The customs form of a parcel; requests.Timeout when the office takes longer than that."""
    answer = http().get(f"{upstream_url()}/customs/{shipment_id}", timeout=timeout_s)
    answer.raise_for_status()
    form: str = answer.json()["form"]
    return form


def rate_to(country: str) -> str:
    """What the carrier takes for a parcel to a country."""
    answer = http().get(f"{upstream_url()}/rates/{country}", timeout=TIMEOUT)
    answer.raise_for_status()
    rate: str = answer.json()["rate"]
    return rate


def settle(order_id: int) -> requests.Response:
    """Settles an order with the clearing house."""
    return http().put(f"{upstream_url()}/clearing/{order_id}", json={}, timeout=TIMEOUT)


def offer(sku: str, cents: int) -> int:
    """Offers an article on the marketplace; gives the price at which it is listed."""
    answer = http().put(f"{upstream_url()}/market/{sku}", json={"cents": cents}, timeout=TIMEOUT)
    answer.raise_for_status()
    listed: int = answer.json()["cents"]
    return listed


def listed_price(sku: str) -> int:
    """At which price the marketplace lists an article."""
    answer = http().get(f"{upstream_url()}/market/{sku}", timeout=TIMEOUT)
    answer.raise_for_status()
    listed: int = answer.json()["cents"]
    return listed


def crm_pass() -> str:
    """Admission to the customer relations service."""
    answer = http().post(f"{upstream_url()}/crm/passes", json={}, timeout=TIMEOUT)
    answer.raise_for_status()
    found: str = answer.json()["pass"]
    return found


def push_customer(customer_id: int, name: str, pass_: str) -> requests.Response:
    """Tells the customer relations service of a customer."""
    headers = {"Authorization": pass_}
    return http().put(f"{upstream_url()}/crm/{customer_id}", json={"name": name}, headers=headers, timeout=TIMEOUT)


def request_pickup(shipment_id: int) -> None:
    http().post(f"{upstream_url()}/pickups/{shipment_id}", json={}, timeout=TIMEOUT).raise_for_status()


def pickup_confirmed(shipment_id: int) -> bool:
    answer = http().get(f"{upstream_url()}/pickups/{shipment_id}", timeout=TIMEOUT)
    answer.raise_for_status()
    confirmed: bool = answer.json()["confirmed"]
    return confirmed


def tracking(shipment_id: int) -> str:
    answer = http().get(f"{upstream_url()}/tracking/{shipment_id}", timeout=TIMEOUT)
    answer.raise_for_status()
    where: str = answer.json()["where"]
    return where


def planned_routes(day: str) -> int:
    answer = http().get(f"{upstream_url()}/routes/{day}", timeout=TIMEOUT)
    answer.raise_for_status()
    routes: int = answer.json()["routes"]
    return routes


def rendered_report(day: str) -> int:
    answer = http().get(f"{upstream_url()}/reports/{day}", timeout=TIMEOUT)
    answer.raise_for_status()
    pages: int = answer.json()["pages"]
    return pages


def supplier_offer(sku: str) -> int:
    answer = http().get(f"{upstream_url()}/offers", params={"sku": sku}, timeout=TIMEOUT)
    answer.raise_for_status()
    cents: int = answer.json()["cents"]
    return cents


def review_stars(sku: str) -> int:
    answer = http().get(f"{upstream_url()}/reviews", params={"sku": sku}, timeout=TIMEOUT)
    answer.raise_for_status()
    stars: int = answer.json()["stars"]
    return stars


def delivery_days(sku: str) -> int:
    answer = http().get(f"{upstream_url()}/delivery", params={"sku": sku}, timeout=TIMEOUT)
    answer.raise_for_status()
    days: int = answer.json()["days"]
    return days


def issue_voucher(order_id: int, key: str = "") -> str:
    """Has a voucher issued; with a key, a second request for the same order is answered with the same voucher."""
    headers = {"Idempotency-Key": key} if key else {}
    answer = http().post(f"{upstream_url()}/vouchers/{order_id}", json={}, headers=headers, timeout=TIMEOUT)
    answer.raise_for_status()
    code: str = answer.json()["code"]
    return code


def print_letter(reference: str, text: str) -> None:
    answer = http().put(f"{upstream_url()}/letters/{reference}", json={"text": text}, timeout=TIMEOUT)
    answer.raise_for_status()
