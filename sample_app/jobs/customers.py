"""Customers: welcome mail, points, addresses."""

from __future__ import annotations

import secrets

import requests
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from sample_app import clients, db
from sample_app.cache import cache
from sample_app.models import Customer, Order

DIGITS = frozenset("0123456789")
#: How long the letter shop has to fetch the addresses of a mailing, in seconds.
MAILING_S = 3_600
#: How long a code to log in with is good for, in seconds.
LOGIN_S = 300
REWARDED = "rewarded"
POINTS_A_STAR = 5


def send_welcome(customer: Customer) -> int:
    """Welcomes a customer by mail."""
    return clients.send_mail({"to": customer.email, "subject": f"Welcome, {customer.name}"})


def send_welcome_to(customer_id: int) -> int:
    """Welcomes a customer by mail."""
    with db.new_session() as session:
        customer = session.get_one(Customer, customer_id)
        message = {"to": customer.email, "subject": f"Welcome, {customer.name}"}
    return clients.send_mail(message)


def send_login_code(customer_id: int) -> int:
    """Sends a customer, who waits for it, the code to log in with."""
    return _send_code(customer_id)


def send_login_code_first(customer_id: int) -> int:
    """Sends a customer, who waits for it, the code to log in with; enqueued where workers look first."""
    return _send_code(customer_id)


def _send_code(customer_id: int) -> int:
    with db.new_session() as session:
        email = session.get_one(Customer, customer_id).email
    code = f"{secrets.randbelow(1_000_000):06}"
    cache().set(f"login:{customer_id}", code, ex=LOGIN_S)
    return clients.send_mail({"to": email, "subject": f"Your code: {code}"})


def award_points(segment: int, points: int) -> int:
    """Gives points to every customer of a segment."""
    with db.new_session() as session:
        ids = session.scalars(select(Customer.id).where(Customer.segment == segment).order_by(Customer.id)).all()
        for customer_id in ids:
            session.execute(update(Customer).where(Customer.id == customer_id).values(points=Customer.points + points))
            session.commit()
    return len(ids)


def award_points_at_once(segment: int, points: int) -> int:
    """Gives points to every customer of a segment, in one statement and one transaction."""
    with db.new_session() as session, session.begin():
        query = update(Customer).where(Customer.segment == segment).values(points=Customer.points + points)
        return len(session.scalars(query.returning(Customer.id)).all())


def normalise_phone(phone: str) -> str:
    """The phone number as dialled from abroad."""
    return "+" + "".join(sign for sign in phone.replace("(0)", "") if sign in DIGITS).removeprefix("00")


def normalise_phones(segment: int) -> list[str]:
    """The phone numbers of a segment as dialled from abroad, saved together."""
    with db.new_session() as session, session.begin():
        customers = session.scalars(select(Customer).where(Customer.segment == segment).order_by(Customer.id)).all()
        phones = [normalise_phone(customer.phone) for customer in customers]
        session.execute(
            update(Customer), [{"id": c.id, "phone": phone} for c, phone in zip(customers, phones, strict=True)]
        )
    return phones


def addresses_for_mailing(mailing: int) -> str:
    """The addresses of all customers, for the letter shop."""
    return _addresses(mailing)


def store_addresses_for_mailing(mailing: int) -> str:
    """Puts the addresses of all customers where the letter shop fetches them, and says where."""
    key = f"mailing:{mailing}"
    cache().set(key, _addresses(mailing), ex=MAILING_S)
    return key


def _addresses(mailing: int) -> str:
    with db.new_session() as session:
        query = select(Customer.name, Customer.email, Customer.phone, Customer.country).order_by(Customer.id)
        return "".join(f"{mailing};{';'.join(row)}\n" for row in session.execute(query))


#: Customers are scored by what a year of their visits looks like.
VISITS = 400_000


def score_segment(segment: int) -> int:
    """How likely the customers of a segment are to buy again."""
    return _scored(segment)


def score_segment_with_room(segment: int) -> int:
    """How likely the customers of a segment are to buy again; its workers have a processor each."""
    return _scored(segment)


def _scored(segment: int) -> int:
    with db.new_session() as session:
        points = sum(session.scalars(select(Customer.points).where(Customer.segment == segment)))
    score = segment + 1
    for visit in range(VISITS):
        score = (score * 1_103_515_245 + 12_345 + visit) % 2_147_483_648
    cache().hset("scores", str(segment), score % 100)
    return score % 100 + points


def tell_crm(customer_id: int) -> str:
    """Tells the customer relations service of a customer, with the pass that was last used."""
    pass_ = cache().get("crm:pass")
    if pass_ is None:
        pass_ = clients.crm_pass()
        cache().set("crm:pass", pass_)
    answer = clients.push_customer(customer_id, _name(customer_id), str(pass_))
    if answer.status_code == requests.codes.unauthorized:
        cache().delete("crm:pass")
    answer.raise_for_status()
    return "told"


def tell_crm_with_fresh_pass(customer_id: int) -> str:
    """Tells the customer relations service of a customer. A pass is good for one request: each job takes its own."""
    answer = clients.push_customer(customer_id, _name(customer_id), clients.crm_pass())
    answer.raise_for_status()
    return "told"


def reward_review(order_id: int, sku: str) -> int:
    """Thanks the customer of an order for the review of an article with points, once."""
    with db.new_session() as session:
        order = session.get_one(Order, order_id)
    if order.status == REWARDED:
        return 0
    stars = clients.review_stars(sku)
    with db.new_session() as session, session.begin():
        return _rewarded(session, order, stars)


def reward_review_once(order_id: int, sku: str) -> int:
    """Thanks the customer of an order for the review of an article with points, once, however often it is asked to."""
    stars = clients.review_stars(sku)
    with db.new_session() as session, session.begin():
        session.execute(select(func.pg_advisory_xact_lock(order_id)))
        order = session.get_one(Order, order_id)
        if order.status == REWARDED:
            return 0
        return _rewarded(session, order, stars)


def _rewarded(session: Session, order: Order, stars: int) -> int:
    points = POINTS_A_STAR * stars
    session.execute(update(Customer).where(Customer.id == order.customer_id).values(points=Customer.points + points))
    session.execute(update(Order).where(Order.id == order.id).values(status=REWARDED))
    return points


def _name(customer_id: int) -> str:
    with db.new_session() as session:
        return session.get_one(Customer, customer_id).name
