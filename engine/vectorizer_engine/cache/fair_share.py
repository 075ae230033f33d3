"""Whose memory is taken when it runs short: the order of evictions between tenants.

The one who holds most gives first, until whoever asks would be that one themselves; from then on they give from what
is their own. So nobody loses anything to somebody who holds more, a noisy tenant pushes out its own entries, and
what an idle one leaves unused is there for the others. Within a tenant the order is the caller's: least recently
used first. Nothing is counted or freed here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Protocol, TypeVar


class Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


_Tenant = TypeVar("_Tenant", bound=Hashable)
_Charge = TypeVar("_Charge", bound=Sized)


def victims(
    held: Mapping[_Tenant, int],
    candidates: Mapping[_Tenant, Iterable[_Charge]],
    *,
    asking: _Tenant | None,
    wanted: int = 0,
    all_there_is: bool = False,
    over_quota: int = 0,
    vital: bool = False,
) -> Iterator[_Charge]:
    """What to evict, one after the other, so that *asking* gets *wanted* bytes more.

    *held* is what each tenant holds, *candidates* what of it may be evicted, in the order in which it goes. *asking*
    None: everybody is to hold less. With *all_there_is* more and more is wanted, for as long as there is a victim.
    The first *over_quota* bytes come from *asking* itself. What is *vital* is taken from those who hold less, too,
    once there is nothing else.
    """
    holds = dict(held)
    if asking is not None:
        holds[asking] += wanted
    queues = {tenant: iter(charges) for tenant, charges in candidates.items()}
    offered = {tenant: next(queue, None) for tenant, queue in queues.items()}
    while True:
        givers = [tenant for tenant, charge in offered.items() if charge is not None]
        if over_quota > 0 and not vital:
            givers = [tenant for tenant in givers if tenant == asking]
        giver = max(givers, key=lambda tenant: (holds[tenant], tenant == asking), default=None)
        if giver is None:
            return
        holds_less = asking is not None and giver != asking and holds[giver] <= holds[asking]
        if holds_less and not vital:
            return
        charge = offered[giver]
        assert charge is not None
        yield charge
        holds[giver] -= charge.nbytes
        if giver == asking:
            over_quota -= charge.nbytes
        elif asking is not None and all_there_is:
            holds[asking] += charge.nbytes
        offered[giver] = next(queues[giver], None)
