"""The shop's Redis: cached prices, scores and thumbnails."""

from __future__ import annotations

import functools
import os

import redis


def redis_url() -> str:
    return os.environ.get("SHOP_REDIS_URL", "redis://localhost:6379")


@functools.cache
def cache() -> redis.Redis:
    """The shared client. It connects when it is first used, so a forked worker may inherit it."""
    return redis.Redis.from_url(redis_url(), decode_responses=True)
