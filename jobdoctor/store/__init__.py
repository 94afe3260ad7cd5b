"""Where recordings are kept: the stream's reader, the tables, and what is asked of them."""

from jobdoctor.store.store import Added, Loss, Store
from jobdoctor.store.stream import Drained, StreamReader, drain

__all__ = ["Added", "Drained", "Loss", "Store", "StreamReader", "drain"]
