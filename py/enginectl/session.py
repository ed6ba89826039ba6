"""Opens a model for a command: configuration, download with a bar, engine. Shared by `serve`, `chat`, `complete` and
`doctor`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from pagoda.client import EngineClient
from pagoda.config import Config, SamplingParams
from pagoda.models import resolve


@contextlib.contextmanager
def open_client(config: Config) -> Iterator[EngineClient]:
    """An engine that is ready for requests; closed on leaving. Raises what loading raises: ValueError, OSError,
    DeviceError.
    """
    resolve(config.model.name)
    client = EngineClient.create(config)
    try:
        yield client
    finally:
        client.close()


def sampling_params(client: EngineClient, config: Config, changes: Mapping[str, Any] | None = None) -> SamplingParams:
    """The model's own defaults, overlaid by the configuration's and then by `changes`. Raises InvalidArgument."""
    return SamplingParams(**{**client.default_params, **config.sampling, **(changes or {})})
