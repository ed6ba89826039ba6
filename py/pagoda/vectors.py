"""What is done with embeddings after the engine: cut, scaled to length 1. Pure functions over lists of floats."""

from __future__ import annotations

import math
from collections.abc import Sequence


def unit_vector(vector: Sequence[float]) -> list[float]:
    """The vector scaled to length 1; a vector of zeros stays as it is."""
    length = math.sqrt(math.fsum(value * value for value in vector))
    return [value / length for value in vector] if length > 0 else list(vector)
