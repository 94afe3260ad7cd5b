"""The catalogue: pictures, prices and the search index."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal

from rq import Queue, get_current_job
from sqlalchemy import select

from sample_app import clients, db
from sample_app.cache import cache
from sample_app.models import Product, ProductImage

THUMBNAIL_PIXELS = 1_000
#: Nobody has ever paid more, in cents.
HIGHEST_PRICE = 90_000


def make_thumbnail(name: str, pixels: bytes) -> int:
    """Makes the small picture of an article."""
    return _thumbnail(name, pixels)


def make_thumbnail_of(image_id: int) -> int:
    """Makes the small picture of an article from the stored one."""
    with db.new_session() as session:
        pixels = session.scalars(select(ProductImage.pixels).where(ProductImage.id == image_id)).one()
    return _thumbnail(f"image-{image_id}", pixels)


def _thumbnail(name: str, pixels: bytes) -> int:
    small = pixels[:: max(1, len(pixels) // THUMBNAIL_PIXELS)]
    cache().set(f"thumbnail:{name}", small)
    return len(small)


def best_prices(category: int) -> int:
    """Finds the price of each article of a category that earns most."""
    prices = {}
    for product_id, cost in _costs(category):
        best, earned = cost, 0
        for price in range(cost, HIGHEST_PRICE):
            demand = HIGHEST_PRICE - price
            if (price - cost) * demand > earned:
                best, earned = price, (price - cost) * demand
        prices[product_id] = best // 100
    return _priced(category, prices)


def best_prices_solved(category: int) -> int:
    """Finds the price of each article of a category that earns most: the top of the parabola."""
    prices = {product_id: (cost + HIGHEST_PRICE) // 2 // 100 for product_id, cost in _costs(category)}
    return _priced(category, prices)


def _costs(category: int) -> list[tuple[int, int]]:
    with db.new_session() as session:
        query = select(Product.id, Product.list_price_cents).where(Product.category == category)
        return [(row.id, row.list_price_cents) for row in session.execute(query)]


def _priced(category: int, prices: dict[int, int]) -> int:
    cache().hset(f"prices:{category}", mapping={str(product_id): price for product_id, price in prices.items()})
    return sum(prices.values())


def warm_price_cache(first_id: int, count: int) -> int:
    """Puts the prices of a range of articles into the cache."""
    for product_id, cents in _prices(first_id, count):
        cache().set(f"price:{product_id}", cents, ex=3600)
    return count


def warm_cache_in_one_go(first_id: int, count: int) -> int:
    """Puts the prices of a range of articles into the cache, with one round trip."""
    with cache().pipeline(transaction=False) as pipeline:
        for product_id, cents in _prices(first_id, count):
            pipeline.set(f"price:{product_id}", cents, ex=3600)
        pipeline.execute()
    return count


def _prices(first_id: int, count: int) -> list[tuple[int, int]]:
    with db.new_session() as session:
        query = select(Product.id, Product.price_cents).where(Product.id.between(first_id, first_id + count - 1))
        return [(row.id, row.price_cents) for row in session.execute(query)]


def watch_price(sku: str) -> int:
    """Asks the supplier what an article costs now."""
    return _watched(sku)


def watch_price_at_leisure(sku: str) -> int:
    """Asks the supplier what an article costs now; enqueued only while few wait for it."""
    return _watched(sku)


def _watched(sku: str) -> int:
    cents = clients.supplier_offer(sku)
    cache().set(f"watched:{sku}", cents)
    return cents


@dataclass
class PriceLine:
    """A line of a supplier's price list."""

    sku: str
    price: Decimal
    valid_from: dt.date


def take_price_list(supplier: str, lines: list[PriceLine]) -> int:
    """Remembers the lowest and the highest price of a supplier's list."""
    prices = [line.price for line in lines]
    return _price_range(supplier, min(prices), max(prices))


def take_stored_price_list(supplier: str, key: str) -> int:
    """Remembers the lowest and the highest price of a supplier's list, which the upload stored as it came."""
    text = str(cache().get(key))
    prices = [line.split(";")[1] for line in text.splitlines()]
    return _price_range(supplier, Decimal(min(prices, key=float)), Decimal(max(prices, key=float)))


def _price_range(supplier: str, lowest: Decimal, highest: Decimal) -> int:
    cache().hset(f"supplier:{supplier}", mapping={"lowest": str(lowest), "highest": str(highest)})
    return int(100 * (highest - lowest))


def refresh_product_page(sku: str) -> str:
    """Puts together what the page of an article shows beside its text."""
    cents = clients.supplier_offer(sku)
    stars = clients.review_stars(sku)
    days = clients.delivery_days(sku)
    return _page(sku, cents, stars, days)


def refresh_page_in_parallel(sku: str) -> str:
    """Puts together what the page of an article shows beside its text; the services are asked beside one another."""
    with ThreadPoolExecutor(3) as threads:
        cents = threads.submit(clients.supplier_offer, sku)
        stars = threads.submit(clients.review_stars, sku)
        days = threads.submit(clients.delivery_days, sku)
    return _page(sku, cents.result(), stars.result(), days.result())


def _page(sku: str, cents: int, stars: int, days: int) -> str:
    page = f"{sku}: {cents / 100:.2f}, {stars} stars, in {days} days"
    cache().set(f"page:{sku}", page)
    return page


def index_product(product_id: int) -> str:
    """Tells the search service of an article."""
    return _indexed(product_id)


def index_product_with_help(product_id: int) -> str:
    """Tells the search service of an article; its queue has workers enough."""
    return _indexed(product_id)


def reindex_product(product_id: int) -> str:
    """Tells the search service that an article was edited."""
    return _indexed(product_id)


def reindex_product_once(product_id: int) -> str:
    """Tells the search service that an article was edited; enqueued once for a burst of edits."""
    return _indexed(product_id)


def _indexed(product_id: int) -> str:
    with db.new_session() as session:
        product = session.get_one(Product, product_id)
        sku, text = product.sku, product.name
    clients.index_document(sku, text)
    return sku


def push_offer(sku: str) -> int:
    """Offers an article on the marketplace, and lets the shop follow what became of it."""
    cents = int(cache().get(f"price:{sku}") or 0)
    clients.offer(sku, cents)
    _echo().enqueue(follow_offer, sku, at_front=True)
    return cents


def follow_offer(sku: str) -> int:
    """Takes over what the marketplace made of a price; a changed price is offered anew."""
    listed = clients.listed_price(sku)
    if listed != int(cache().get(f"price:{sku}") or 0):
        cache().set(f"price:{sku}", listed)
        _echo().enqueue(push_offer, sku, at_front=True)
    return listed


def push_offer_once(sku: str) -> int:
    """Offers an article on the marketplace, unless its price is the one that was taken over from there."""
    cents = int(cache().get(f"price:{sku}") or 0)
    if cache().get(f"listed:{sku}") != str(cents):
        cache().set(f"listed:{sku}", clients.offer(sku, cents))
    return cents


def _echo() -> Queue:
    """The queue that the job came from."""
    job = get_current_job()
    assert job is not None
    return Queue(job.origin, connection=job.connection)
