"""Where recordings are kept: the stream's reader, the tables, and what is asked of them."""

from jobdoctor.store.store import Added, Loss, Store

__all__ = ["Added", "Loss", "Store"]
