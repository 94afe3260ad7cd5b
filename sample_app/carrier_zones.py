"""The carriers' zones: every postal area with its distance class, worked out when the module is imported."""

from __future__ import annotations

import math

COUNTRIES = ("DE", "FR", "IT", "NL", "PL")
AREAS = 12_000


def _distance(country: int, area: int) -> float:
    latitude, longitude = math.radians(40 + area % 200 / 10), math.radians(area / AREAS * 30 + country)
    return math.acos(
        min(1.0, math.sin(0.9) * math.sin(latitude) + math.cos(0.9) * math.cos(latitude) * math.cos(longitude))
    )


_ZONES = {
    (country, area): int(_distance(number, area) * 9)
    for number, country in enumerate(COUNTRIES)
    for area in range(AREAS)
}


def zone_of(country: str) -> str:
    """The zone in which a country's parcels are sorted."""
    return f"zone-{COUNTRIES.index(country)}{_ZONES[country, 0]}"
