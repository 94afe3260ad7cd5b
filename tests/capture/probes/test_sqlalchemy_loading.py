"""What SQLAlchemy's ORM loads when it is touched, by its strategy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import ForeignKey, create_engine, select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import (
    DeclarativeBase,
    DynamicMapped,
    Mapped,
    Session,
    WriteOnlyMapped,
    mapped_column,
    raiseload,
    relationship,
)
from sqlalchemy.orm import strategies as orm_strategies

from jobdoctor.capture import probes
from tests.capture.probes.conftest import Record


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    notes: Mapped[str] = mapped_column(default="secret", deferred=True)
    items: Mapped[list[Item]] = relationship(back_populates="order", viewonly=True)
    queried: DynamicMapped[Item] = relationship(viewonly=True)
    written: WriteOnlyMapped[Item] = relationship()


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    order: Mapped[Order] = relationship(back_populates="items", viewonly=True)


@pytest.fixture
def session() -> Iterator[Session]:
    probes.install_all()
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as opened:
        opened.add_all(Order(id=number) for number in range(3))
        opened.flush()
        opened.add_all(Item(id=number, order_id=number % 3) for number in range(6))
        opened.commit()
        yield opened
    engine.dispose()


def test_each_strategy_is_named(record: Record, session: Session) -> None:
    def touch(order: Any) -> None:
        assert len(order.items) == 2
        assert len(list(order.queried)) == 2
        assert order.notes == "secret"
        assert len(session.scalars(order.written.select()).all()) == 2  # a query of the job's own

    with record() as recorded:
        for order in session.scalars(select(Order)).all():
            touch(order)
    loaded = {
        (group.relationship, group.load_strategy): group.count for group in recorded.of("sql") if group.relationship
    }
    assert loaded == {("Order.items", "select"): 3, ("Order.queried", "dynamic"): 3, ("Order.notes", "deferred"): 3}
    assert "secret" not in str(recorded.recording)


def test_what_may_not_be_loaded_makes_no_call(record: Record, session: Session) -> None:
    with record() as recorded:
        order = session.scalars(select(Order).options(raiseload(Order.items))).first()
        assert order is not None
        with pytest.raises(InvalidRequestError):
            _ = order.items
    assert [group.relationship for group in recorded.of("sql", "SELECT")] == [""]


def test_everything_is_put_back() -> None:
    owner: Any = getattr(orm_strategies, "_DeferredColumnLoader", None) or orm_strategies.DeferredColumnLoader
    before = vars(owner)["_load_for_state"]
    probes.install_all()
    assert vars(owner)["_load_for_state"] is not before
    probes.uninstall_all()
    assert vars(owner)["_load_for_state"] is before
