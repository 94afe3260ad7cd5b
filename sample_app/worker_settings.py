"""Settings of the shop's workers (``-c sample_app.worker_settings``).

What every job needs is imported and made ready here, in the worker, so that its forked horses have it already.
``jobs.labels`` was forgotten.
"""

from sqlalchemy.orm import configure_mappers

from sample_app import clients, db
from sample_app.jobs import catalog, customers, mail, orders, payments, reports, shipping, stock

PRELOADED = (catalog, customers, mail, orders, payments, reports, shipping, stock)

configure_mappers()
clients.http()
clients.mail_gateway()
for engine in (db.engine(), db.reporting_engine(), db.threaded_engine()):
    # The first connection asks the server what it can do; closed again, because connections do not survive a fork.
    engine.connect().close()
    engine.dispose()
