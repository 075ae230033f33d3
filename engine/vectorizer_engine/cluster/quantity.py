"""Kubernetes quantities (`512Mi`, `500m`, `1000000`): as numbers, to compare them, and as whole bytes.

Whole bytes are for sizes in memory and on disk: they are rounded up, as Kubernetes does for memory.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

# The grammar of k8s.io/apimachinery/pkg/api/resource.Quantity, so that this function and CEL's
# `quantity()` agree about every string.
_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?", re.ASCII
)
_BINARY = {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)}
_DECIMAL = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal("1e3"),
    "M": Decimal("1e6"),
    "G": Decimal("1e9"),
    "T": Decimal("1e12"),
    "P": Decimal("1e15"),
    "E": Decimal("1e18"),
}
_LARGEST = 2**63 - 1


def quantity_value(value: object) -> Decimal | None:
    """The number that *value* stands for, to 28 digits, or None where it is no quantity.

    Takes integers and the strings that Kubernetes takes. Booleans, floats and anything else are no
    quantities. An exponent beyond ±30 counts as ±30.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    if isinstance(value, int):
        return Decimal(value)
    match = _QUANTITY.fullmatch(value)
    if match is None:
        return None
    suffix = match["suffix"] or ""
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix not in _BINARY:
        exponent = Decimal(suffix[1:])  # int() would refuse one of thousands of digits
        scale = Decimal(10) ** max(Decimal(-30), min(exponent, Decimal(30)))
    else:
        scale = _BINARY.get(suffix) or _DECIMAL.get(suffix) or Decimal(1)
    return Decimal(match["number"]) * scale


def parse_quantity(value: object) -> int | None:
    """Bytes that *value* stands for, or None where it is no quantity (see `quantity_value`).

    What exceeds 2^63 - 1 becomes 2^63 - 1, as in Kubernetes.
    """
    number = quantity_value(value)
    if number is None:
        return None
    # Rounding up is away from zero, so that -0.5 stays negative.
    magnitude = int(abs(number).to_integral_value(rounding=ROUND_CEILING))
    return min(magnitude, _LARGEST) * (-1 if number < 0 else 1)
