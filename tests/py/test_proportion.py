"""The check that work is in proportion to its input tells what is from what is not."""

from __future__ import annotations

import pytest
from proportion import check_proportion


def test_quadratic_work_is_told_from_work_in_proportion() -> None:
    check_proportion(lambda text: [char.upper() for char in text], "", "a", 40_000)
    with pytest.raises(AssertionError, match="four times the input"):
        check_proportion(lambda text: [char for at in range(len(text)) for char in text[at:]], "", "a", 400)
