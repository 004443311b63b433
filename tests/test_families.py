"""Every member of every family keeps the family's promises."""

from __future__ import annotations

import pytest

from luthier.choice import FAMILIES, find, members
from luthier.readers import Reader
from luthier.testing import conforms

ALL = [(family, name) for family in FAMILIES for name in members(family)]


@pytest.mark.parametrize(("family", "name"), ALL, ids=[f"{family}.{name}" for family, name in ALL])
def test_a_member_conforms(family: str, name: str) -> None:
    member = conforms(family, name)
    assert member.__name__.lower() == name.replace("_", "")


def test_nothing_is_lost_from_the_families() -> None:
    assert {family: len(members(family)) for family in FAMILIES} == {
        "tasks": 3, "bases": 3, "readers": 4, "splits": 4, "objectives": 2, "techniques": 3, "engines": 1,
        "baselines": 5, "metrics": 4, "checks": 4,
    }  # fmt: skip


def test_an_unknown_member_is_told_with_the_nearest_name() -> None:
    with pytest.raises(Exception, match="no metric called 'exact_mach'; did you mean 'exact_match'\\?"):
        find("metrics", "exact_mach")


def test_readers_are_detected_by_those_who_need_no_settings() -> None:
    assert issubclass(find("readers", "csv"), Reader)
