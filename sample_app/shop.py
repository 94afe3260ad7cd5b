"""The shop itself, as far as it gives work to the background: what pages, imports and timers enqueue."""

from __future__ import annotations

import random

import redis
from rq import Queue, Retry
from rq.job import Job

from sample_app import clients, db
from sample_app.cache import cache
from sample_app.jobs import catalog, customers, mail, orders, payments, reports, shipping, stock
from sample_app.jobs.catalog import PriceLine
from sample_app.models import Customer

#: Edits of one article within this many seconds lead to one reindexing.
DEBOUNCE_S = 5
#: Prices that may wait to be asked for.
MOST_WATCHED = 2
#: Timeout of jobs that print a truck's manifest, in seconds.
MANIFEST_S = 2
#: Timeout of jobs that charge subscriptions, in seconds.
SUBSCRIPTIONS_S = 3


class Shop:
    """Enqueues on the queues of one Redis. Every method returns the jobs it enqueued."""

    def __init__(self, connection: redis.Redis) -> None:
        self.redis = connection
        self.default = Queue("default", connection=connection)
        self.tidy = Queue("tidy", connection=connection)
        self.busy = Queue("busy", connection=connection)
        self.refunds = Queue("refunds", connection=connection)
        self.partners = Queue("partners", connection=connection)
        self.crowded = Queue("crowded", connection=connection)
        self.prices = Queue("prices", connection=connection)
        self.urgent = Queue("urgent", connection=connection)
        self.leisure = Queue("leisure", connection=connection)
        self.logins = Queue("logins", connection=connection)
        self.quick = Queue("quick", connection=connection)
        self.index = Queue("index", connection=connection)
        self.search = Queue("search", connection=connection)
        self.alerts = Queue("alerts", connection=connection)
        self.scores = Queue("scores", connection=connection)
        self.roomy = Queue("roomy", connection=connection)

    # the catalogue

    def upload_picture(self, name: str, pixels: bytes) -> list[Job]:
        return [self.default.enqueue(catalog.make_thumbnail, name, pixels)]

    def store_picture(self, image_id: int) -> list[Job]:
        return [self.tidy.enqueue(catalog.make_thumbnail_of, image_id)]

    def reprice(self, category: int) -> list[Job]:
        return [self.default.enqueue(catalog.best_prices, category)]

    def reprice_cleverly(self, category: int) -> list[Job]:
        return [self.tidy.enqueue(catalog.best_prices_solved, category)]

    def publish_prices(self, first_id: int, count: int) -> list[Job]:
        return [self.default.enqueue(catalog.warm_price_cache, first_id, count)]

    def publish_prices_together(self, first_id: int, count: int) -> list[Job]:
        return [self.tidy.enqueue(catalog.warm_cache_in_one_go, first_id, count)]

    def import_product(self, product_id: int) -> list[Job]:
        return [self.index.enqueue(catalog.index_product, product_id)]

    def import_product_with_help(self, product_id: int) -> list[Job]:
        return [self.search.enqueue(catalog.index_product_with_help, product_id)]

    def page_viewed(self, sku: str) -> list[Job]:
        return [self.prices.enqueue(catalog.watch_price, sku)]

    def close_for_the_night(self) -> None:
        """Prices that nobody has asked for until now will be others tomorrow."""
        for job_id in self.prices.job_ids:
            self.prices.remove(job_id)

    def page_viewed_at_leisure(self, sku: str) -> list[Job]:
        """What is not asked for now is asked for when the page is viewed again."""
        if len(self.leisure) >= MOST_WATCHED:
            return []
        return [self.leisure.enqueue(catalog.watch_price_at_leisure, sku)]

    def price_list_received(self, supplier: str, lines: list[PriceLine]) -> list[Job]:
        return [self.default.enqueue(catalog.take_price_list, supplier, lines)]

    def price_list_uploaded(self, supplier: str, lines: list[PriceLine]) -> list[Job]:
        key = f"upload:{supplier}"
        self.redis.set(key, "".join(f"{line.sku};{line.price};{line.valid_from}\n" for line in lines), ex=3_600)
        return [self.tidy.enqueue(catalog.take_stored_price_list, supplier, key)]

    def page_outdated(self, sku: str) -> list[Job]:
        return [self.partners.enqueue(catalog.refresh_product_page, sku)]

    def page_outdated_in_parallel(self, sku: str) -> list[Job]:
        return [self.tidy.enqueue(catalog.refresh_page_in_parallel, sku)]

    def product_edited(self, product_id: int) -> list[Job]:
        return [self.default.enqueue(catalog.reindex_product, product_id)]

    def product_edited_debounced(self, product_id: int) -> list[Job]:
        if not self.redis.set(f"debounce:{product_id}", 1, nx=True, ex=DEBOUNCE_S):
            return []
        return [self.tidy.enqueue(catalog.reindex_product_once, product_id)]

    # customers

    def sign_up(self, customer_id: int) -> list[Job]:
        with db.new_session() as session:
            customer = session.get_one(Customer, customer_id)
        return [self.default.enqueue(customers.send_welcome, customer)]

    def sign_up_by_id(self, customer_id: int) -> list[Job]:
        return [self.tidy.enqueue(customers.send_welcome_to, customer_id)]

    def log_in(self, customer_ids: list[int]) -> list[Job]:
        return [self.logins.enqueue(customers.send_login_code, customer_id) for customer_id in customer_ids]

    def log_in_first(self, customer_ids: list[int]) -> list[Job]:
        return [self.urgent.enqueue(customers.send_login_code_first, customer_id) for customer_id in customer_ids]

    def routes_changed(self, day: str) -> list[Job]:
        return [self.logins.enqueue(shipping.plan_routes, day)]

    def campaign(self, segment: int) -> list[Job]:
        return [self.default.enqueue(customers.award_points, segment, 10)]

    def campaign_at_once(self, segment: int) -> list[Job]:
        return [self.tidy.enqueue(customers.award_points_at_once, segment, 10)]

    def phone_entered(self, phone: str) -> list[Job]:
        return [self.default.enqueue(customers.normalise_phone, phone)]

    def phones_imported(self, segment: int) -> list[Job]:
        return [self.tidy.enqueue(customers.normalise_phones, segment)]

    def mailing(self, number: int) -> list[Job]:
        return [self.default.enqueue(customers.addresses_for_mailing, number)]

    def mailing_by_key(self, number: int) -> list[Job]:
        return [self.tidy.enqueue(customers.store_addresses_for_mailing, number)]

    def reviewed(self, order_id: int, sku: str, clicks: int = 1) -> list[Job]:
        return [self.busy.enqueue(customers.reward_review, order_id, sku) for _ in range(clicks)]

    def reviewed_once(self, order_id: int, sku: str, clicks: int = 1) -> list[Job]:
        return [self.busy.enqueue(customers.reward_review_once, order_id, sku) for _ in range(clicks)]

    def score(self, segments: list[int]) -> list[Job]:
        return [self.scores.enqueue(customers.score_segment, segment) for segment in segments]

    def score_with_room(self, segments: list[int]) -> list[Job]:
        return [self.roomy.enqueue(customers.score_segment_with_room, segment) for segment in segments]

    # mail

    def newsletter(self, issue: int, customer_ids: list[int]) -> list[Job]:
        return [self.busy.enqueue(mail.send_newsletter, issue, customer_id) for customer_id in customer_ids]

    def newsletter_in_parallel(self, issue: int, customer_ids: list[int]) -> list[Job]:
        return [self.busy.enqueue(mail.send_newsletter_once, issue, customer_id) for customer_id in customer_ids]

    def price_dropped(self, sku: str, customer_ids: list[int]) -> list[Job]:
        return [self.alerts.enqueue(mail.send_price_alert, sku, customer_id) for customer_id in customer_ids]

    def price_dropped_for_all(self, sku: str, customer_ids: list[int], slice_size: int = 50) -> list[Job]:
        slices = [customer_ids[start : start + slice_size] for start in range(0, len(customer_ids), slice_size)]
        return self.tidy.enqueue_many([Queue.prepare_data(mail.send_price_alerts, [sku, ids]) for ids in slices])

    def nightly_bounces(self, day: str) -> list[Job]:
        return [self.default.enqueue(mail.sync_bounces, day)]

    def nightly_bounces_of_v2(self, day: str) -> list[Job]:
        return [self.tidy.enqueue(mail.sync_bounces_of_v2, day)]

    # orders and payments

    def nightly_accounting(self, day: str) -> list[Job]:
        return [self.default.enqueue(orders.sync_orders, day)]

    def nightly_accounting_eagerly(self, day: str) -> list[Job]:
        return [self.tidy.enqueue(orders.sync_orders_eagerly, day)]

    def taxes_due(self, country: str, day: str) -> list[Job]:
        return [self.default.enqueue(orders.tax_report, country, day)]

    def taxes_due_with_rate(self, country: str, day: str) -> list[Job]:
        return [self.tidy.enqueue(orders.tax_report_with_rate, country, day)]

    def closing_time(self, day: str) -> list[Job]:
        return [self.default.enqueue(orders.best_sellers, day)]

    def closing_time_untidied(self, day: str) -> list[Job]:
        return [self.tidy.enqueue(orders.best_sellers_untidied, day)]

    def price_review(self, day: str) -> list[Job]:
        return [self.partners.enqueue(orders.price_ranks, day)]

    def price_review_by_window(self, day: str) -> list[Job]:
        return [self.tidy.enqueue(orders.price_ranks_by_window, day)]

    def end_of_month(self, since: str) -> list[Job]:
        return [self.default.enqueue(orders.turnover, since)]

    def end_of_month_by_sum(self, since: str) -> list[Job]:
        return [self.tidy.enqueue(orders.turnover_by_sum, since)]

    def evening(self, day: str) -> list[Job]:
        return [self.default.enqueue(payments.write_cash_book, day)]

    def evening_at_once(self, day: str) -> list[Job]:
        return [self.tidy.enqueue(payments.write_cash_book_at_once, day)]

    def complaint(self, order_id: int) -> list[Job]:
        return [self.default.enqueue(payments.send_voucher, order_id, retry=Retry(max=2))]

    def complaint_with_key(self, order_id: int) -> list[Job]:
        return [self.tidy.enqueue(payments.send_voucher_once, order_id, retry=Retry(max=2))]

    def first_of_month(self, month: str, order_ids: list[int]) -> list[Job]:
        return [self.busy.enqueue(payments.charge_subscriptions, month, order_ids, job_timeout=SUBSCRIPTIONS_S)]

    def first_of_month_in_slices(self, month: str, order_ids: list[int], slice_size: int = 7) -> list[Job]:
        """Slices that any worker may take, and a job that closes the month when all are done."""
        slices = [order_ids[start : start + slice_size] for start in range(0, len(order_ids), slice_size)]
        charges = self.busy.enqueue_many(
            [
                Queue.prepare_data(payments.charge_some_subscriptions, [month, ids], timeout=SUBSCRIPTIONS_S)
                for ids in slices
            ]
        )
        return [*charges, self.busy.enqueue(payments.close_subscriptions, month, depends_on=charges)]

    def gift(self, order_id: int) -> list[Job]:
        return [self.default.enqueue(payments.sell_gift_card, order_id, retry=Retry(max=2))]

    def gift_as_one(self, order_id: int) -> list[Job]:
        return [self.tidy.enqueue(payments.sell_gift_card_as_one, order_id, retry=Retry(max=2))]

    def checkout(self, order_id: int) -> list[Job]:
        return [self.default.enqueue(payments.charge_order, order_id)]

    def checkout_then_save(self, order_id: int) -> list[Job]:
        return [self.tidy.enqueue(payments.charge_order_then_save, order_id)]

    def screen(self, order_id: int) -> list[Job]:
        return [self.partners.enqueue(payments.screen_order, order_id)]

    def screen_cached(self, order_id: int) -> list[Job]:
        return [self.tidy.enqueue(payments.screen_by_cached_score, order_id)]

    def parcel_sent(self, order_id: int) -> list[Job]:
        return [self.default.enqueue(payments.capture_payment, order_id, retry=Retry(max=3))]

    def parcel_sent_or_declined(self, order_id: int) -> list[Job]:
        return [self.tidy.enqueue(payments.capture_or_decline, order_id)]

    def bank_day(self, order_ids: list[int]) -> list[Job]:
        return [self.refunds.enqueue(payments.refund_order, order_id, retry=Retry(max=3)) for order_id in order_ids]

    def returned(self, order_id: int) -> list[Job]:
        pauses = [random.randint(1, 2), random.randint(4, 8), random.randint(15, 30)]
        return [self.refunds.enqueue(payments.refund_order_patiently, order_id, retry=Retry(max=3, interval=pauses))]

    def market_price(self, sku: str, cents: int) -> list[Job]:
        cache().set(f"price:{sku}", cents)
        return [self.default.enqueue(catalog.push_offer, sku)]

    def market_price_once(self, sku: str, cents: int) -> list[Job]:
        cache().set(f"price:{sku}", cents)
        return [self.tidy.enqueue(catalog.push_offer_once, sku)]

    def addresses_checked(self, day: str) -> list[Job]:
        return [self.default.enqueue(shipping.check_addresses, day)]

    def addresses_reported(self, day: str) -> list[Job]:
        return [self.tidy.enqueue(shipping.report_addresses, day)]

    def tariff_page(self) -> list[Job]:
        return [self.default.enqueue(shipping.tariffs, ["AT", "FR"])]

    def tariffs_changed(self) -> list[Job]:
        return [self.tidy.enqueue(shipping.keep_tariffs, ["AT", "FR"])]

    def settled(self, order_id: int) -> list[Job]:
        return [self.default.enqueue(payments.settle_order, order_id)]

    def settled_or_put_off(self, order_id: int) -> list[Job]:
        return [self.tidy.enqueue(payments.settle_or_put_off, order_id)]

    def window_dressed(self, skus: list[str], quantity: int) -> list[Job]:
        """Two people carry the same articles, one from the left and one from the right."""
        return [self.busy.enqueue(stock.move_stock, order, quantity) for order in (skus, skus[::-1])]

    def window_dressed_in_order(self, skus: list[str], quantity: int) -> list[Job]:
        return [self.busy.enqueue(stock.move_stock_in_order, order, quantity) for order in (skus, skus[::-1])]

    def declare(self, shipment_id: int) -> list[Job]:
        return [self.partners.enqueue(shipping.declare_parcel, shipment_id, job_timeout=1)]

    def declare_in_time(self, shipment_id: int) -> list[Job]:
        return [self.tidy.enqueue(shipping.declare_or_postpone, shipment_id, job_timeout=5)]

    def customer_changed(self, customer_id: int) -> list[Job]:
        return [self.default.enqueue(customers.tell_crm, customer_id, retry=Retry(max=3))]

    def customer_changed_with_pass(self, customer_id: int) -> list[Job]:
        return [self.tidy.enqueue(customers.tell_crm_with_fresh_pass, customer_id, retry=Retry(max=3))]

    def receipts(self, order_ids: list[int]) -> list[Job]:
        return [self.crowded.enqueue(mail.send_receipt, order_id) for order_id in order_ids]

    def receipt_promptly(self, order_id: int) -> list[Job]:
        return [self.quick.enqueue(mail.send_receipt_promptly, order_id)]

    # stock and shipping

    def refresh_stock(self, skus: list[str]) -> list[Job]:
        return [self.partners.enqueue(stock.refresh_stock_levels, skus)]

    def refresh_stock_at_once(self, skus: list[str]) -> list[Job]:
        return [self.tidy.enqueue(stock.refresh_levels_at_once, skus)]

    def supplier_feed(self, feed: str, rows: int) -> list[Job]:
        return [self.default.enqueue(stock.import_stock_feed, feed, rows)]

    def supplier_feed_in_bulk(self, feed: str, rows: int) -> list[Job]:
        return [self.tidy.enqueue(stock.import_stock_feed_in_bulk, feed, rows)]

    def stocktaking(self, warehouse: str) -> list[Job]:
        return [self.busy.enqueue(stock.recount_warehouse, warehouse)]

    def put_in_basket(self, order_id: int, sku: str) -> list[Job]:
        return [self.busy.enqueue(stock.reserve_stock, order_id, sku, 1)]

    def put_in_basket_by_ledger(self, order_id: int, sku: str) -> list[Job]:
        return [self.busy.enqueue(stock.reserve_stock_in_ledger, order_id, sku, 1)]

    def shipping_page(self, order_id: int) -> list[Job]:
        return [self.partners.enqueue(shipping.quote_shipping, order_id)]

    def shipping_page_in_time(self, order_id: int) -> list[Job]:
        return [self.tidy.enqueue(shipping.quote_shipping_in_time, order_id)]

    def packed(self, order_id: int) -> list[Job]:
        return [self.default.enqueue("sample_app.jobs.labels.print_label", order_id)]

    def packed_by_zone(self, order_id: int) -> list[Job]:
        return [self.tidy.enqueue(shipping.print_label, order_id)]

    def parcel_ready(self, shipment_id: int) -> list[Job]:
        return [self.partners.enqueue(shipping.await_pickup, shipment_id)]

    def call_carrier(self, shipment_ids: list[int]) -> None:
        for shipment_id in shipment_ids:
            clients.request_pickup(shipment_id)

    def carrier_confirmed(self, shipment_id: int) -> list[Job]:
        return [self.tidy.enqueue(shipping.confirm_pickup, shipment_id)]

    def announce(self, shipment_ids: list[int]) -> list[Job]:
        return [self.partners.enqueue(shipping.announce_parcels, shipment_ids)]

    def announce_over_one_connection(self, shipment_ids: list[int]) -> list[Job]:
        return [self.tidy.enqueue(shipping.announce_over_one_connection, shipment_ids)]

    def truck_loaded(self, shipment_ids: list[int]) -> list[Job]:
        return [self.alerts.enqueue(shipping.print_manifest, shipment_ids, job_timeout=MANIFEST_S)]

    def truck_loaded_with_known(self, shipment_ids: list[int]) -> list[Job]:
        return [self.alerts.enqueue(shipping.print_manifest_of_known, shipment_ids, job_timeout=MANIFEST_S)]

    def routes(self, day: str) -> list[Job]:
        return [self.crowded.enqueue(shipping.plan_routes, day)]

    def track(self, shipment_ids: list[int]) -> list[Job]:
        return [self.crowded.enqueue(shipping.update_tracking, shipment_id) for shipment_id in shipment_ids]

    def track_soon(self, shipment_id: int) -> list[Job]:
        return [self.quick.enqueue(shipping.track_promptly, shipment_id)]

    # reports

    def sales_report(self, day: str) -> list[Job]:
        return [self.crowded.enqueue(reports.build_sales_report, day)]

    def archive(self, first_day: str, days: int) -> list[Job]:
        return [self.default.enqueue(reports.export_invoices, first_day, days)]

    def archive_page_by_page(self, first_day: str, days: int) -> list[Job]:
        return [self.tidy.enqueue(reports.export_page_by_page, first_day, days)]

    def seal(self, first_day: str, days: int) -> list[Job]:
        return [self.default.enqueue(reports.seal_invoices, first_day, days)]

    def seal_page_by_page(self, first_day: str, days: int) -> list[Job]:
        return [self.tidy.enqueue(reports.seal_page_by_page, first_day, days)]

    def invoices_due(self, first_day: str, days: int) -> list[Job]:
        return [self.default.enqueue(reports.print_invoices, first_day, days)]

    def invoices_due_one_by_one(self, first_day: str, days: int) -> list[Job]:
        return [self.tidy.enqueue(reports.print_one_by_one, first_day, days)]

    def revenue(self, day: str) -> list[Job]:
        return [self.default.enqueue(reports.revenue_by_country, day)]

    def revenue_threaded(self, day: str) -> list[Job]:
        return [self.tidy.enqueue(reports.revenue_in_parallel, day)]
