"""Our own engine as a library with `activation_dtype: mixed`, where AMX would choose bf16: inputs of 8 bits."""

from __future__ import annotations

from typing import ClassVar

import pagoda_llm

NAME, VERSION, PACKAGES = "pagoda-mixed", "", ()
FORMATS = {"q4_1": "gguf", "q4_0": "gguf", "q8_0": "gguf"}


class Engine(pagoda_llm.Engine):
    """`pagoda.LLM` with that option."""

    OPTIONS: ClassVar[dict[str, object]] = {"activation_dtype": "mixed"}
