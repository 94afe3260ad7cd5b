"""What ails the shop: for each rule a sick job and its healthy twin, and how the shop comes to enqueue them."""

from __future__ import annotations

import datetime as dt
import functools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal

from rq.job import Job

from sample_app import seed
from sample_app.jobs.catalog import PriceLine
from sample_app.shop import Shop

#: Rounds of a load unless it says otherwise, and in a quick demo.
ROUNDS = 6
QUICK_ROUNDS = 5


@dataclass(frozen=True)
class Load:
    """How one job comes to run. ``enqueue`` is called with the number of the round, from 0."""

    name: str  # dotted, below sample_app.jobs
    enqueue: Callable[[Shop, int], list[Job]]
    lane: str = "default"  # loads of one lane take turns, lanes run at the same time
    rounds: int = ROUNDS
    pause_ms: float | None = None  # between rounds that do not wait for their jobs; None: each round waits
    prepare: Callable[[Shop], None] | None = None
    work: float = 1.0  # what a round gets done, in the units of its pair: by it the twins are compared

    @property
    def job(self) -> str:
        """Its dotted name, as RQ has it."""
        return f"sample_app.jobs.{self.name}"


@dataclass(frozen=True)
class Case:
    """A planted illness: the rule's code, the job that has it and the job that was cured of it."""

    code: str
    sick: Load
    healthy: Load


@dataclass(frozen=True)
class Lane:
    """Workers of some queues. Lanes of one phase run together; a phase starts when the one before is done."""

    name: str
    queues: tuple[str, ...]
    workers: int = 1
    phase: int = 1
    options: tuple[str, ...] = field(default=())


LANES = (
    Lane("default", ("default",)),
    Lane("tidy", ("tidy",)),
    Lane("refunds", ("refunds",), options=("--with-scheduler",)),
    Lane("alerts", ("alerts", "partners")),
    Lane("busy", ("busy",), workers=3, phase=2),
    Lane("crowded", ("crowded",), phase=2),
    Lane("quick", ("quick",), phase=2),
    Lane("index", ("index",), phase=2),
    Lane("search", ("search",), workers=2, phase=2),
    Lane("scores", ("scores",), workers=3, phase=3, options=("-c", "sample_app.small_container")),
    Lane("roomy", ("roomy",), phase=4),
    Lane("logins", ("logins",), phase=5),
    Lane("prices", ("prices",), phase=5),
    Lane("leisure", ("urgent", "leisure"), phase=5),
)


#: What the shop promises, in ms from enqueue to done.
SLO_MS = {"sample_app.jobs.customers.send_login_code": 1_000, "sample_app.jobs.customers.send_login_code_first": 1_000}


_tidy = functools.partial(Load, lane="tidy")
#: Jobs that mostly wait for others take turns on a lane of their own, so that they do not hold up those that work.
_partners = functools.partial(Load, lane="alerts")


def _day(number: int) -> str:
    return (seed.FIRST_DAY + dt.timedelta(days=number % seed.DAYS)).isoformat()


def _skus(number: int, count: int = 25) -> list[str]:
    return [f"SKU-{number * count + n:05}" for n in range(count)]


def _price_list(number: int, count: int = 10_000) -> list[PriceLine]:
    return [
        PriceLine(f"SKU-{n:05}", Decimal(n * 37 % 9_900 + number) / 100, seed.FIRST_DAY + dt.timedelta(days=n % 90))
        for n in range(count)
    ]


def _shipments(number: int, count: int = 15) -> list[int]:
    return [number * count % 150 + n + 1 for n in range(count)]


def _stocktaking_with(put_in_basket: Callable[[int, str], list[Job]], shop: Shop, number: int) -> list[Job]:
    """Two customers want an article of a warehouse that is being counted."""
    counting = shop.stocktaking("north")
    time.sleep(0.06)
    return [
        *counting,
        *put_in_basket(2 * number + 1, "SKU-00007"),
        *put_in_basket(2 * number + 2, "SKU-00009"),
    ]


def _crowd(shop: Shop, number: int) -> list[Job]:
    """A report and the routes are ordered, and after them what customers wait for."""
    return [
        *shop.sales_report(_day(number)),
        *shop.receipts([2 * number + 1, 2 * number + 2]),
        *shop.routes(_day(number)),
        *shop.track([2 * number + 1, 2 * number + 2]),
    ]


def _import(shop: Shop, number: int) -> list[Job]:
    """The import reads its file half as fast again as the articles are indexed, however fast that is."""
    while len(shop.index) > (number + 1) * 0.4 + 1:
        time.sleep(0.005)
    return shop.import_product(number + 1)


def _page_views(shop: Shop, number: int) -> list[Job]:
    """Twice as many pages are viewed as prices are asked for, however fast that is. What is left in the evening is
    thrown away: tomorrow it would be wrong."""
    while len(shop.prices) > number / 2 + 1:
        time.sleep(0.005)
    shop.page_viewed(f"SKU-{number:05}")
    if number == VIEWS - 1:
        shop.close_for_the_night()
    return []


def _call_the_carrier(shop: Shop) -> None:
    shop.call_carrier([100 + number for number in range(ROUNDS)])


def _edit_thrice(edited: Callable[[int], list[Job]], number: int) -> list[Job]:
    """The form saves the article while somebody types."""
    return [job for _ in range(3) for job in edited(number + 1)]


def _truck(number: int) -> list[int]:
    """Every third truck has a parcel that nobody has entered."""
    return [3 * number + 1, 3 * number + 2, 999_999 if number % 3 == 0 else 3 * number + 3]


def _clicks(number: int) -> int:
    """Two customers are impatient."""
    return 2 if number in (1, 3) else 1


CUSTOMERS = list(range(1, 121))
#: Pages of the shop that are viewed in a day.
VIEWS = 60
#: Orders that are charged anew each month.
SUBSCRIBERS = list(range(601, 639))

CASES: list[Case] = [
    # 1 payload
    Case(
        "JD101",
        Load("catalog.make_thumbnail", lambda shop, n: shop.upload_picture(f"photo-{n}", _photo(n))),
        _tidy("catalog.make_thumbnail_of", lambda shop, n: shop.store_picture(n + 1)),
    ),
    Case(
        "JD102",
        Load("customers.send_welcome", lambda shop, n: shop.sign_up(n + 1)),
        _tidy("customers.send_welcome_to", lambda shop, n: shop.sign_up_by_id(n + 1)),
    ),
    Case(
        "JD103",
        Load("customers.addresses_for_mailing", lambda shop, n: shop.mailing(n)),
        _tidy("customers.store_addresses_for_mailing", lambda shop, n: shop.mailing_by_key(n)),
    ),
    Case(
        "JD104",
        Load("catalog.take_price_list", lambda shop, n: shop.price_list_received(f"received-{n}", _price_list(n))),
        _tidy("catalog.take_stored_price_list", lambda shop, n: shop.price_list_uploaded(f"up-{n}", _price_list(n))),
    ),
    Case(
        "JD105",
        Load("labels.print_label", lambda shop, n: shop.packed(n + 1)),
        _tidy("shipping.print_label", lambda shop, n: shop.packed_by_zone(n + 1)),
    ),
    # 2 external calls
    Case(
        "JD201",
        _partners("payments.screen_order", lambda shop, n: shop.screen(n + 1)),
        _tidy("payments.screen_by_cached_score", lambda shop, n: shop.screen_cached(n + 1)),
    ),
    Case(
        "JD202",
        _partners("shipping.quote_shipping", lambda shop, n: shop.shipping_page(n + 1)),
        _tidy("shipping.quote_shipping_in_time", lambda shop, n: shop.shipping_page_in_time(n + 1)),
    ),
    Case(
        "JD203",
        _partners("catalog.refresh_product_page", lambda shop, n: shop.page_outdated(f"SKU-{n:05}")),
        _tidy("catalog.refresh_page_in_parallel", lambda shop, n: shop.page_outdated_in_parallel(f"SKU-{n:05}")),
    ),
    Case(
        "JD204",
        Load("payments.charge_order", lambda shop, n: shop.checkout(n + 1)),
        _tidy("payments.charge_order_then_save", lambda shop, n: shop.checkout_then_save(n + 101)),
    ),
    Case(
        "JD205",
        _partners("shipping.announce_parcels", lambda shop, n: shop.announce(_shipments(n))),
        _tidy(
            "shipping.announce_over_one_connection", lambda shop, n: shop.announce_over_one_connection(_shipments(n))
        ),
    ),
    Case(
        "JD206",
        _partners("orders.price_ranks", lambda shop, n: shop.price_review(_day(n))),
        _tidy("orders.price_ranks_by_window", lambda shop, n: shop.price_review_by_window(_day(n))),
    ),
    Case(
        "JD207",
        Load("payments.write_cash_book", lambda shop, n: shop.evening(_day(n))),
        _tidy("payments.write_cash_book_at_once", lambda shop, n: shop.evening_at_once(_day(n))),
    ),
    Case(
        "JD208",
        Load("payments.send_voucher", lambda shop, n: shop.complaint(n + 201)),
        _tidy("payments.send_voucher_once", lambda shop, n: shop.complaint_with_key(n + 301)),
    ),
    # 3 internals
    Case(
        "JD301",
        Load("catalog.best_prices", lambda shop, n: shop.reprice(n)),
        _tidy("catalog.best_prices_solved", lambda shop, n: shop.reprice_cleverly(n)),
    ),
    Case(
        "JD302",
        Load("reports.seal_invoices", lambda shop, n: shop.seal(_day(n), seed.DAYS)),
        _tidy("reports.seal_page_by_page", lambda shop, n: shop.seal_page_by_page(_day(n), seed.DAYS)),
    ),
    Case(
        "JD303",
        Load("reports.print_invoices", lambda shop, n: shop.invoices_due(_day(n), n + 1), rounds=7),
        _tidy(
            "reports.print_one_by_one", lambda shop, n: shop.invoices_due_one_by_one(_day(n), n + 1), rounds=7
        ),
    ),
    Case(
        "JD304",
        Load("orders.best_sellers", lambda shop, n: shop.closing_time(_day(n))),
        _tidy("orders.best_sellers_untidied", lambda shop, n: shop.closing_time_untidied(_day(n))),
    ),
    Case(
        "JD305",
        _partners("shipping.await_pickup", lambda shop, n: shop.parcel_ready(n + 1)),
        _tidy(
            "shipping.confirm_pickup", lambda shop, n: shop.carrier_confirmed(n + 100), prepare=_call_the_carrier
        ),
    ),
    Case(
        "JD306",
        Load("reports.export_invoices", lambda shop, n: shop.archive(_day(n), 12)),
        _tidy("reports.export_page_by_page", lambda shop, n: shop.archive_page_by_page(_day(n), 12)),
    ),
    Case(
        "JD307",
        Load(
            "customers.score_segment", lambda shop, n: shop.score([3 * n, 3 * n + 1, 3 * n + 2]),
            lane="scores", rounds=3, work=3,
        ),
        Load("customers.score_segment_with_room", lambda shop, n: shop.score_with_room([n]), "roomy", rounds=5),
    ),
    # 4 batching
    Case(
        "JD401",
        Load("orders.sync_orders", lambda shop, n: shop.nightly_accounting(_day(n))),
        _tidy("orders.sync_orders_eagerly", lambda shop, n: shop.nightly_accounting_eagerly(_day(n))),
    ),
    Case(
        "JD402",
        _partners("stock.refresh_stock_levels", lambda shop, n: shop.refresh_stock(_skus(n))),
        _tidy("stock.refresh_levels_at_once", lambda shop, n: shop.refresh_stock_at_once(_skus(n))),
    ),
    Case(
        "JD403",
        Load("catalog.warm_price_cache", lambda shop, n: shop.publish_prices(n * 20 + 1, 600)),
        _tidy(
            "catalog.warm_cache_in_one_go", lambda shop, n: shop.publish_prices_together(n * 20 + 1, 600)
        ),
    ),
    Case(
        "JD404",
        Load("orders.tax_report", lambda shop, n: shop.taxes_due("DE", _day(n))),
        _tidy("orders.tax_report_with_rate", lambda shop, n: shop.taxes_due_with_rate("DE", _day(n))),
    ),
    Case(
        "JD405",
        Load("stock.import_stock_feed", lambda shop, n: shop.supplier_feed(f"feed-{n}", 200)),
        _tidy("stock.import_stock_feed_in_bulk", lambda shop, n: shop.supplier_feed_in_bulk(f"bulk-{n}", 200)),
    ),
    Case(
        "JD406",
        Load("customers.award_points", lambda shop, n: shop.campaign(n)),
        _tidy("customers.award_points_at_once", lambda shop, n: shop.campaign_at_once(n + ROUNDS)),
    ),
    Case(
        "JD407",
        Load(
            "payments.charge_subscriptions", lambda shop, n: shop.first_of_month(f"2026-0{n + 1}", SUBSCRIBERS),
            lane="busy", rounds=2,
        ),
        Load(
            "payments.charge_some_subscriptions",
            lambda shop, n: shop.first_of_month_in_slices(f"2027-0{n + 1}", SUBSCRIBERS),
            lane="busy", rounds=2,
        ),
    ),
    Case(
        "JD408",
        Load("orders.turnover", lambda shop, n: shop.end_of_month(_day(n))),
        _tidy("orders.turnover_by_sum", lambda shop, n: shop.end_of_month_by_sum(_day(n))),
    ),
    # 5 locks
    Case(
        "JD501",
        Load("stock.reserve_stock", lambda shop, n: _stocktaking_with(shop.put_in_basket, shop, n), lane="busy"),
        _tidy(
            "stock.reserve_stock_in_ledger",
            lambda shop, n: _stocktaking_with(shop.put_in_basket_by_ledger, shop, n),
            lane="busy",
        ),
    ),
    Case(
        "JD502",
        Load("mail.send_newsletter", lambda shop, n: shop.newsletter(n, [1, 2, 3]), lane="busy"),
        _tidy("mail.send_newsletter_once", lambda shop, n: shop.newsletter_in_parallel(n, [1, 2, 3]), lane="busy"),
    ),
    Case(
        "JD503",
        Load("reports.revenue_by_country", lambda shop, n: shop.revenue(_day(n))),
        _tidy("reports.revenue_in_parallel", lambda shop, n: shop.revenue_threaded(_day(n))),
    ),
    Case(
        "JD504",
        Load("stock.move_stock", lambda shop, n: shop.window_dressed(_skus(0), n + 1), lane="busy"),
        Load("stock.move_stock_in_order", lambda shop, n: shop.window_dressed_in_order(_skus(0), n + 1), lane="busy"),
    ),
    Case(
        "JD505",
        Load("customers.reward_review", lambda shop, n: shop.reviewed(401 + n, "SKU-00001", _clicks(n)), "busy"),
        Load(
            "customers.reward_review_once",
            lambda shop, n: shop.reviewed_once(411 + n, "SKU-00001", _clicks(n)),
            lane="busy",
        ),
    ),
    Case(
        "JD506",
        Load("payments.sell_gift_card", lambda shop, n: shop.gift(n + 501)),
        _tidy("payments.sell_gift_card_as_one", lambda shop, n: shop.gift_as_one(n + 510)),
    ),
    # 6 retries
    Case(
        "JD601",
        Load("customers.tell_crm", lambda shop, n: shop.customer_changed(n + 1), rounds=8),
        _tidy("customers.tell_crm_with_fresh_pass", lambda shop, n: shop.customer_changed_with_pass(n + 1)),
    ),
    Case(
        "JD602",
        Load(
            "payments.refund_order", lambda shop, n: shop.bank_day([3 * n + k for k in (1, 2, 3)]),
            lane="refunds", work=3,
        ),
        _tidy("payments.refund_order_patiently", lambda shop, n: shop.returned(n + 1), lane="refunds"),
    ),
    Case(
        "JD603",
        Load("payments.settle_order", lambda shop, n: shop.settled(n), rounds=28),
        _tidy("payments.settle_or_put_off", lambda shop, n: shop.settled_or_put_off(n), rounds=28),
    ),
    Case(
        "JD604",
        Load("payments.capture_payment", lambda shop, n: shop.parcel_sent(n + 1)),
        _tidy("payments.capture_or_decline", lambda shop, n: shop.parcel_sent_or_declined(n + 1)),
    ),
    Case(
        "JD605",
        _partners("shipping.declare_parcel", lambda shop, n: shop.declare(n + 1), rounds=4),
        _tidy("shipping.declare_or_postpone", lambda shop, n: shop.declare_in_time(n + 1)),
    ),
    Case(
        "JD606",
        Load("mail.sync_bounces", lambda shop, n: shop.nightly_bounces(_day(n))),
        _tidy("mail.sync_bounces_of_v2", lambda shop, n: shop.nightly_bounces_of_v2(_day(n))),
    ),
    # 7 queue
    Case(
        "JD701",
        Load("mail.send_receipt", _crowd, lane="crowded", rounds=4),
        _tidy("mail.send_receipt_promptly", lambda shop, n: shop.receipt_promptly(n + 1), lane="quick"),
    ),
    Case(
        "JD702",
        Load("catalog.index_product", _import, lane="index", rounds=60, pause_ms=20),
        Load(
            "catalog.index_product_with_help",
            lambda shop, n: shop.import_product_with_help(2 * n + 1) + shop.import_product_with_help(2 * n + 2),
            lane="search",
        ),
    ),
    Case(
        "JD703",
        Load("shipping.update_tracking", lambda shop, n: [], lane="crowded", rounds=0),
        _tidy("shipping.track_promptly", lambda shop, n: shop.track_soon(n + 1), lane="quick"),
    ),
    Case(
        "JD704",
        Load(
            "customers.send_login_code",
            lambda shop, n: shop.routes_changed(_day(n)) + shop.log_in([3 * n + k for k in (1, 2, 3)]),
            lane="logins", rounds=7,
        ),
        Load(
            "customers.send_login_code_first", lambda shop, n: shop.log_in_first([3 * n + k for k in (1, 2, 3)]),
            lane="leisure", rounds=7,
        ),
    ),
    Case(
        "JD705",
        Load("shipping.print_manifest", lambda shop, n: shop.truck_loaded(_truck(n)), lane="alerts"),
        Load(
            "shipping.print_manifest_of_known", lambda shop, n: shop.truck_loaded_with_known(_truck(n + ROUNDS)),
            lane="alerts",
        ),
    ),
    Case(
        "JD706",
        Load("catalog.watch_price", _page_views, lane="prices", rounds=VIEWS, pause_ms=0),
        Load(
            "catalog.watch_price_at_leisure", lambda shop, n: shop.page_viewed_at_leisure(f"SKU-{n:05}"),
            lane="leisure", rounds=VIEWS, pause_ms=60,
        ),
    ),
    # 8 trigger
    Case(
        "JD801",
        Load("catalog.reindex_product", lambda shop, n: _edit_thrice(shop.product_edited, n)),
        _tidy("catalog.reindex_product_once", lambda shop, n: _edit_thrice(shop.product_edited_debounced, n)),
    ),
    Case(
        "JD802",
        Load("shipping.check_addresses", lambda shop, n: shop.addresses_checked(_day(n))),
        _tidy("shipping.report_addresses", lambda shop, n: shop.addresses_reported(_day(n))),
    ),
    Case(
        "JD803",
        Load("shipping.tariffs", lambda shop, n: shop.tariff_page(), rounds=7, work=1 / 7),
        _tidy("shipping.keep_tariffs", lambda shop, n: shop.tariffs_changed(), rounds=3),
    ),
    Case(
        "JD804",
        Load("customers.normalise_phone", lambda shop, n: shop.phone_entered(f"0049 (0) 30 - {n:06}"), rounds=10),
        _tidy(
            "customers.normalise_phones", lambda shop, n: shop.phones_imported(n), work=seed.CUSTOMERS / seed.SEGMENTS
        ),
    ),
    Case(
        "JD805",
        Load(
            "mail.send_price_alert", lambda shop, n: shop.price_dropped(f"SKU-{n:05}", CUSTOMERS),
            lane="alerts", rounds=1,
        ),
        _tidy(
            "mail.send_price_alerts", lambda shop, n: shop.price_dropped_for_all(f"SKU-{n:05}", CUSTOMERS), rounds=3
        ),
    ),
    Case(
        "JD806",
        Load("catalog.push_offer", lambda shop, n: shop.market_price(f"SKU-9{n:04}", 995), rounds=3),
        _tidy("catalog.push_offer_once", lambda shop, n: shop.market_price_once(f"SKU-8{n:04}", 995)),
    ),
]  # fmt: skip


def _photo(number: int) -> bytes:
    """Pixels that do not compress, as a photo's do not."""
    return random.Random(number).randbytes(seed.IMAGE_BYTES)
