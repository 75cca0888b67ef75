"""Quota arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.access.quota import RESOURCES, Quota, charge, exceeded
from moorage.errors import Internal, QuotaExceeded

amounts = st.builds(Quota, **{name: st.integers(0, 20) for name in RESOURCES})


@given(limit=amounts, used=amounts, asked=amounts)
def test_charged_or_refused_exactly_at_the_limit(limit: Quota, used: Quota, asked: Quota) -> None:
    over = [
        name
        for name in RESOURCES
        if getattr(asked, name)
        and getattr(limit, name)
        and getattr(used, name) + getattr(asked, name) > getattr(limit, name)
    ]
    assert list(exceeded(limit, used, asked)) == over
    if over:
        with pytest.raises(QuotaExceeded) as caught:
            charge(limit, used, asked)
        assert caught.value.metadata["resources"] == ",".join(over)
        for name in over:
            numbers = [caught.value.metadata[f"{name}.{kind}"] for kind in ("used", "asked", "limit")]
            assert numbers == [str(getattr(amount, name)) for amount in (used, asked, limit)]
    else:
        assert charge(limit, used, asked) - asked == used


def test_unlimited() -> None:
    assert charge(Quota(), Quota(instances=10**6), Quota(instances=1)).instances == 10**6 + 1


def test_lowered_limit_does_not_block_what_needs_none_of_it() -> None:
    limit, used = Quota(instances=1, networks=5), Quota(instances=3)
    assert charge(limit, used, Quota(networks=1)) == Quota(instances=3, networks=1)


def test_giving_back_more_than_was_used_is_a_bug() -> None:
    with pytest.raises(Internal):
        _ = Quota(cpu_millis=1) - Quota(cpu_millis=2)
