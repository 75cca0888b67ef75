"""Claims: what an instance holds that no second one may hold with it, and when it may be given to another. Pure.

An instance that claims something runs under leases. Its host counts each one from the moment at which it asked for it, so that the end
by its clock comes before the end by ours, and has stopped the instance by then. So what it claims is free only

- when its record is gone: its host has said that nothing of it is left there, or an operator has given their word for that;
- when it was given up, and the last lease that it can have has ended for certain: `is_claim_free` on its record.

Whoever makes another one in its place asks `blocks_successor` about the old record, and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.domain.groups import SlotPolicy
from controlplane.domain.instances import Claim, Instance, InstanceSpec

#: How much faster one clock may run than another: the kernel lets a clock be slewed by 500 millionths, in either direction.
CLOCK_RATE_ERROR = 0.001
#: Between the end of a lease and the moment at which its claim is given to another, for what takes no time at all in theory.
MARGIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """How leases are given: an operator's choice. See docs/configuration.md."""

    lease_seconds: float = 10.0
    renewal_seconds: float = 1.0

    def seconds_for(self, spec: InstanceSpec, claims: Sequence[Claim]) -> float:
        """Length of the leases of an instance that is made now; 0: it runs without."""
        return self.lease_seconds if claims and not spec.survives_isolation else 0.0


DEFAULT_TERMS = LeaseTerms()


def claims_of(
    spec: InstanceSpec, slot: int, slots: SlotPolicy, *, has_exclusive_volume: bool = False
) -> tuple[Claim, ...]:
    """What an instance that is made now claims, in order.

    Args:
        slot: in its group; -1: nobody replaces it, so that name and addresses are its own for as long as there is something of it.
        slots: what stays with the group's slots.
    """
    is_member = slot >= 0
    found = {
        Claim.INSTANCE: spec.exclusive,
        Claim.NAME: is_member and slots.sticky_name,
        Claim.ADDRESS: is_member and (slots.sticky_address or any(nic.addresses for nic in spec.nics)),
        Claim.VOLUME: has_exclusive_volume,
    }
    return tuple(claim for claim, is_held in found.items() if is_held)


def holds_claim(instance: Instance) -> bool:
    """Whether it holds something that no second one may hold with it."""
    return bool(instance.claims)


def is_leased(instance: Instance) -> bool:
    """Whether it runs only while its lease is renewed."""
    return instance.lease_seconds > 0


def is_renewed(instance: Instance) -> bool:
    """Whether a lease may be given to it now."""
    return is_leased(instance) and not instance.given_up and not instance.is_claim_free


def is_kept(instance: Instance) -> bool:
    """Whether it was given up, and what it claims is still kept from others."""
    return bool(instance.given_up) and blocks_successor(instance)


def may_be_given_up(instance: Instance) -> bool:
    """Whether it may count as lost because its host is: one that survives isolation is moved by nobody but an operator."""
    return not instance.effective.survives_isolation


def blocks_successor(instance: Instance) -> bool:
    """Whether nothing may be made in the place of a lost instance yet, because it may still have what it claims."""
    return holds_claim(instance) and not instance.is_claim_free


def has_let_go(instance: Instance) -> bool:
    """Whether another may have what it has: it counts as lost, and what it claims is free."""
    return bool(instance.given_up) and not blocks_successor(instance)


def claim_end_seconds(lease_seconds: float, last_renewal_seconds: float) -> float:
    """When the last lease has ended for certain, on the clock of `last_renewal_seconds`.

    Args:
        last_renewal_seconds: when the last request to renew it arrived that was, or may have been, granted.
    """
    return last_renewal_seconds + lease_seconds * (1.0 + CLOCK_RATE_ERROR) + MARGIN_SECONDS
