"""Our own engine as a library with `activation_dtype: bf16`, which a processor with AMX multiplies in tiles."""

from __future__ import annotations

from typing import ClassVar

import pagoda_llm

NAME, VERSION, PACKAGES = "pagoda-bf16", "", ()
FORMATS = {"q4_1": "gguf", "q4_0": "gguf", "q8_0": "gguf"}


class Engine(pagoda_llm.Engine):
    """`pagoda.LLM` with that option."""

    OPTIONS: ClassVar[dict[str, object]] = {"activation_dtype": "bf16"}
