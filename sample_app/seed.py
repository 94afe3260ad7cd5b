"""Fills the shop's database and cache with customers, products and orders: the same ones every time."""

from __future__ import annotations

import datetime as dt
import random

import redis
from sqlalchemy import Engine, insert

from sample_app import carrier_zones
from sample_app.models import Base, Customer, Order, OrderItem, Product, ProductImage, Shipment, StockLevel, TaxRate

COUNTRIES = ("DE", "FR", "IT", "NL", "PL")
CUSTOMERS = 2_400
SEGMENTS = 20
PRODUCTS = 800
CATEGORIES = 10
DAYS = 20
ORDERS_A_DAY = 100
ITEMS_AN_ORDER = 4
IMAGES = 24
IMAGE_BYTES = 400_000
WAREHOUSES = ("north", "south")
FIRST_DAY = dt.date(2026, 1, 1)
#: Every so many orders were paid with a card that has expired since.
EXPIRED_EVERY = 4


def seed(engine: Engine, cache: redis.Redis) -> None:
    """Creates the tables and their rows, and fills the cache. The database must be the shop's own."""
    seed_database(engine)
    seed_cache(cache)


def seed_database(engine: Engine) -> None:
    """Creates the tables and their rows."""
    chance = random.Random(20260101)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    orders = [_order(number, chance) for number in range(1, DAYS * ORDERS_A_DAY + 1)]
    with engine.begin() as connection:
        connection.execute(insert(TaxRate), [{"country": c, "percent": 19 + n} for n, c in enumerate(COUNTRIES)])
        connection.execute(insert(Customer), [_customer(number) for number in range(1, CUSTOMERS + 1)])
        connection.execute(insert(Product), [_product(number) for number in range(1, PRODUCTS + 1)])
        connection.execute(
            insert(ProductImage),
            [{"id": n, "width": 500, "pixels": chance.randbytes(IMAGE_BYTES)} for n in range(1, IMAGES + 1)],
        )
        connection.execute(insert(Order), orders)
        connection.execute(
            insert(OrderItem),
            [
                {
                    "order_id": order["id"],
                    "product_id": chance.randint(1, PRODUCTS),
                    "quantity": chance.randint(1, 3),
                    "price_cents": chance.randint(100, 9_900),
                }
                for order in orders
                for _ in range(ITEMS_AN_ORDER)
            ],
        )
        connection.execute(
            insert(StockLevel),
            [
                {"warehouse": warehouse, "sku": f"SKU-{number:05}", "on_hand": 1_000}
                for warehouse in WAREHOUSES
                for number in range(1, 61)
            ],
        )
        connection.execute(insert(Shipment), [{"id": order["id"], "order_id": order["id"]} for order in orders[:200]])


def seed_cache(cache: redis.Redis) -> None:
    """Caches what the fraud service and the carriers have pushed."""
    with cache.pipeline() as pipeline:
        for order_id in range(1, DAYS * ORDERS_A_DAY + 1):
            pipeline.set(f"fraud:{order_id}", "0.1")
        for country in COUNTRIES:
            pipeline.hset("zones", country, carrier_zones.zone_of(country))
        pipeline.execute()


def _customer(number: int) -> dict[str, object]:
    return {
        "id": number,
        "name": f"Customer {number}",
        "email": f"customer{number}@example.com",
        "country": COUNTRIES[number % len(COUNTRIES)],
        "segment": number % SEGMENTS,
        "phone": f"0049 (0) 30-{number:06}",
        "points": 0,
    }


def _product(number: int) -> dict[str, object]:
    cents = 100 + number * 37 % 9_900
    return {
        "id": number,
        "sku": f"SKU-{number:05}",
        "name": f"Product {number}",
        "category": number % CATEGORIES,
        "price_cents": cents,
        "list_price_cents": cents,
    }


def _order(number: int, chance: random.Random) -> dict[str, object]:
    return {
        "id": number,
        "customer_id": chance.randint(1, CUSTOMERS),
        "day": FIRST_DAY + dt.timedelta(days=(number - 1) // ORDERS_A_DAY),
        "status": "new",
        "card": "expired" if number % EXPIRED_EVERY == 0 else "valid",
        "total_cents": chance.randint(1_000, 90_000),
    }
