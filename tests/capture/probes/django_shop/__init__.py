"""A Django project of a few models, configured once for the process: its settings are here."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.db import connections
from psycopg.conninfo import conninfo_to_dict

from tests import mariadb

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=[__name__],
    LOGGING_CONFIG=None,
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()  # imports the models

from .models import Customer, Invoice, Item, Order, Product  # noqa: E402

MODELS: tuple[Any, ...] = (Customer, Product, Order, Item, Invoice)


def use(alias: str, settings_of: dict[str, Any]) -> Any:
    """The connection of a database, which is made for it."""
    connections.databases[alias] = connections.configure_settings({"default": {}, alias: settings_of})[alias]
    return connections[alias]


def postgresql_settings(url: str) -> dict[str, Any]:
    """Django's settings for a libpq URL."""
    given = conninfo_to_dict(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": given["dbname"],
        "USER": given.get("user", ""),
        "PASSWORD": given.get("password", ""),
        "HOST": given.get("host", ""),
        "PORT": str(given.get("port", "")),
    }


def mysql_settings(url: str) -> dict[str, Any]:
    """Django's settings for a URL of the tests' MariaDB."""
    given = mariadb.arguments(url)
    return {
        "ENGINE": "django.db.backends.mysql",
        "NAME": given["database"],
        "USER": given["user"],
        "PASSWORD": given["password"],
        "HOST": given["host"],
        "PORT": str(given["port"]),
    }


def create(connection: Any) -> None:
    """The tables, with three orders of two items each."""
    alias = connection.alias
    with connection.schema_editor() as editor:
        for model in MODELS:
            editor.create_model(model)
    products = [Product.objects.using(alias).create(name=f"product {n}") for n in range(2)]
    for number in range(3):
        customer = Customer.objects.using(alias).create(name=f"customer {number}", notes="secret")
        order = Order.objects.using(alias).create(customer=customer, total=number)
        order.products.set(products)
        Item.objects.using(alias).bulk_create(Item(order=order, number=n) for n in range(2))
        Invoice.objects.using(alias).create(order=order)


def drop(connection: Any) -> None:
    """The tables are gone."""
    with connection.schema_editor() as editor:
        for model in reversed(MODELS):
            editor.delete_model(model)
