"""For all tests: ids that are unique, because pytest-xdist runs those of one id only once."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Numbers tests of equal id, as those that schemathesis makes of one function."""
    seen: Counter[str] = Counter()
    for item in items:
        seen[item.nodeid] += 1
        if seen[item.nodeid] > 1:
            item._nodeid = f"{item.nodeid}[{seen[item.nodeid]}]"
