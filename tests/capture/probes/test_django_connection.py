"""Django on SQLite and PostgreSQL: statements, transactions and the relationships behind lazy loads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from jobdoctor.capture import probes
from jobdoctor.model import SpanGroup
from tests.capture.probes import django_shop as shop
from tests.capture.probes.conftest import Record, line

HERE = "tests/capture/probes/test_django_connection.py"


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def alias(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with the shop in it, whose connection is open."""
    if request.param == "sqlite":
        settings: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "shop.db")}
    elif request.param == "postgresql":
        settings = shop.postgresql_settings(request.getfixturevalue("postgres_url"))
    else:
        pytest.importorskip("MySQLdb", reason="mysqlclient is not installed")
        settings = shop.mysql_settings(request.getfixturevalue("mysql_url"))
    probes.install_all()  # a worker has them installed before it imports Django
    connection = shop.use("probed", settings)
    shop.create(connection)
    try:
        yield "probed"
    finally:
        shop.drop(connection)
        connection.close()
        del connections["probed"]


def statements(groups: list[SpanGroup]) -> list[tuple[str, int, str]]:
    return [(group.operation, group.count, group.relationship) for group in groups]


def test_a_statement_is_one_call_above_the_driver(record: Record, alias: str) -> None:
    with record() as recorded:
        for number in range(3):
            assert shop.Order.objects.using(alias).filter(total=number).count() == 1
            here = line(-1)
        orders = list(shop.Order.objects.using(alias).filter(total__gte=1))
    counted, listed = recorded.of("sql")
    assert (counted.library, counted.operation, counted.count, counted.distinct) == ("django", "SELECT", 3, 3)
    assert counted.callsite == f"{HERE}:{here}"
    assert counted.effect == "read"
    assert (len(orders), listed.rows) == (2, 2)
    assert counted.target == listed.target
    vendor, name = connections[alias].vendor, connections[alias].settings_dict["NAME"]
    if vendor == "sqlite":
        assert counted.target == f"sqlite:///{name}"
        return
    assert counted.target.startswith(f"{vendor}://localhost:")
    assert counted.target.endswith(f"/{name}")
    (session,) = recorded.facts("session")
    assert counted.target.startswith(session["backend"].rpartition("#")[0])


def test_many_rows_are_one_batched_call(record: Record, alias: str) -> None:
    with record() as recorded, connections[alias].cursor() as cursor:
        cursor.executemany("INSERT INTO django_shop_product (name) VALUES (%s)", [("secret",), ("other",)])
    many = recorded.one("sql", "INSERT")
    assert (many.batched, many.items, many.effect) == (1, 2, "write")
    assert "secret" not in str(recorded.recording)


def test_a_lazy_load_names_its_relationship(record: Record, alias: str) -> None:
    def sizes(orders: Any) -> None:
        for order in orders:
            assert order.customer.name
            assert len(order.items.all()) == 2
            assert len(order.items.filter(number=1)) == 1
            assert len(order.products.all()) == 2
            assert order.invoice.pk

    with record() as recorded:
        sizes(shop.Order.objects.using(alias).all())
        for product in shop.Product.objects.using(alias).all():
            assert len(product.orders.all()) == 3
    found = {(group.relationship, group.count) for group in recorded.of("sql") if group.relationship}
    assert found == {
        ("Order.customer", 3), ("Order.items", 3), ("Order.products", 3), ("Order.invoice", 3), ("Product.orders", 2),
    }  # fmt: skip
    assert sum(group.relationship == "Order.items" for group in recorded.of("sql")) == 2
    strategies = {group.relationship: group.load_strategy for group in recorded.of("sql")}
    assert strategies == {
        "": "", "Order.customer": "select", "Order.items": "dynamic", "Order.products": "dynamic",
        "Order.invoice": "select", "Product.orders": "dynamic",
    }  # fmt: skip
    with record() as recorded:
        sizes(
            shop.Order.objects.using(alias).select_related("customer", "invoice").prefetch_related("items", "products")
        )
    assert {(group.relationship, group.count) for group in recorded.of("sql")} == {("", 1), ("Order.items", 3)}


def test_a_prefetch_within_a_lazy_load_is_no_lazy_load(record: Record, alias: str) -> None:
    order = shop.Order.objects.using(alias).first()
    assert order is not None
    with record() as recorded:
        assert [item.order_id for item in order.items.prefetch_related("order__products")] == [order.pk] * 2
    found = {group.fingerprint.split(" FROM ")[1].split()[0].strip('"`'): group for group in recorded.of("sql")}
    assert found["django_shop_item"].relationship == "Order.items"
    assert found["django_shop_product"].relationship == ""


def test_a_deferred_field_names_itself(record: Record, alias: str) -> None:
    with record() as recorded:
        for customer in shop.Customer.objects.using(alias).defer("notes"):
            assert customer.notes == "secret"
            assert customer.notes == "secret"
    listed, loaded = recorded.of("sql")
    assert (listed.relationship, loaded.relationship, loaded.count) == ("", "Customer.notes", 3)
    assert loaded.load_strategy == "deferred"
    assert "secret" not in str(recorded.recording)


def test_saves_outside_of_a_transaction_are_seen_as_such(record: Record, alias: str) -> None:
    with record() as recorded:
        for order in shop.Order.objects.using(alias).all():
            order.save()
    update = recorded.one("sql", "UPDATE")
    assert (update.count, update.rows, update.in_transaction) == (3, 3, 0)
    assert [group.operation for group in recorded.of("sql") if group.effect == "transaction"] == []


def test_an_atomic_block_is_a_transaction_from_its_beginning(record: Record, alias: str) -> None:
    with record() as recorded:
        with transaction.atomic(using=alias):
            for order in shop.Order.objects.using(alias).all():
                order.save()
        shop.Order.objects.using(alias).update(total=5)
    select, inside, commit, after = (
        group for group in recorded.of("sql") if group.operation != "BEGIN"
    )  # SQLite is told BEGIN, PostgreSQL's drivers send it with the first statement
    assert (select.operation, select.in_transaction) == ("SELECT", 1)
    assert (inside.operation, inside.count, inside.in_transaction) == ("UPDATE", 3, 3)
    assert (commit.operation, commit.effect, commit.count) == ("COMMIT", "transaction", 1)
    assert (after.operation, after.in_transaction) == ("UPDATE", 0)


def test_a_failed_block_rolls_back_and_its_error_is_djangos(record: Record, alias: str) -> None:
    taken = shop.Invoice.objects.using(alias).values_list("order_id", flat=True)[0]
    with record() as recorded:
        with pytest.raises(IntegrityError), transaction.atomic(using=alias):
            shop.Invoice.objects.using(alias).create(order_id=taken)
        assert shop.Order.objects.using(alias).count() == 3
    insert = recorded.one("sql", "INSERT")
    assert insert.error_types == {"django.db.utils.IntegrityError": 1}
    assert recorded.one("sql", "ROLLBACK").count == 1
    assert recorded.of("sql", "SELECT")[-1].in_transaction == 0


def test_a_savepoint_is_no_commit(record: Record, alias: str) -> None:
    with record() as recorded, transaction.atomic(using=alias):
        for order in shop.Order.objects.using(alias).all():
            with transaction.atomic(using=alias):
                order.save()
    assert recorded.one("sql", "COMMIT").count == 1
    assert sum(group.count for group in recorded.of("sql") if group.operation == "SAVEPOINT") == 3


def test_rows_that_come_in_chunks_are_counted_where_the_driver_knows_them(record: Record, alias: str) -> None:
    with record() as recorded:
        assert len(list(shop.Item.objects.using(alias).iterator(chunk_size=2))) == 6
    group = recorded.of("sql")[0]
    assert group.rows in (6, None)


def test_a_repeated_query_of_one_alias_shares_no_state_with_another(record: Record, alias: str, tmp_path: Path) -> None:
    other = shop.use("other", {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "other.db")})
    try:
        with record() as recorded, connections[alias].cursor() as one, other.cursor() as two:
            one.execute("SELECT 1")
            two.execute("SELECT 1")
        assert len({group.target for group in recorded.of("sql", "SELECT")}) == 2
    finally:
        other.close()
        del connections["other"]


def test_everything_is_put_back() -> None:
    from django.db.models.fields.related_descriptors import ForwardManyToOneDescriptor, ForwardOneToOneDescriptor
    from django.db.models.query import QuerySet
    from django.db.models.query_utils import DeferredAttribute

    def attributes() -> list[object]:
        return [
            vars(owner)[name]
            for owner, name in (
                (CursorWrapper, "execute"), (CursorWrapper, "executemany"), (CursorWrapper, "callproc"),
                (BaseDatabaseWrapper, "_commit"), (BaseDatabaseWrapper, "_rollback"),
                (transaction.Atomic, "__enter__"), (transaction.Atomic, "__exit__"),
                (QuerySet, "_fetch_all"), (QuerySet, "_prefetch_related_objects"), (DeferredAttribute, "__get__"),
                (ForwardManyToOneDescriptor, "get_object"), (ForwardOneToOneDescriptor, "get_object"),
            )
        ]  # fmt: skip

    before = attributes()
    probes.install_all()
    assert all(one is not other for one, other in zip(attributes(), before, strict=True))
    probes.uninstall_all()
    assert all(one is other for one, other in zip(attributes(), before, strict=True))
