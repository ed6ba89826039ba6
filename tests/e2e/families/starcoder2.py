"""StarCoder 2."""

from __future__ import annotations

from typing import Any

import gguf
import transformers
from e2e.tiny_gguf import Converter
from e2e.tiny_models import DROPPED, Directory, Family
from gguf import MODEL_ARCH

TIED = {"tie_word_embeddings": True, "sliding_window": None}


class Starcoder2Converter(Converter):
    """The epsilon has another name."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_layer_norm_eps(config.norm_epsilon)


FAMILIES = [
    Family(
        transformers.Starcoder2Config,
        transformers.Starcoder2ForCausalLM,
        sizes={"head_dim": DROPPED, "rms_norm_eps": DROPPED, "norm_epsilon": 1e-5},
        directories={
            "starcoder2": Directory(TIED, edit=lambda config: config.pop("tie_word_embeddings")),
            "starcoder2-window": Directory({"sliding_window": 20}, max_shard_size="60KB"),
            "starcoder2-odd-sizes": Directory(
                {
                    "vocab_size": 331,
                    "hidden_size": 90,
                    "intermediate_size": 77,
                    "num_attention_heads": 9,
                    "num_key_value_heads": 3,
                    "num_hidden_layers": 3,
                    "use_bias": False,
                    "sliding_window": None,
                }
            ),
        },
        ggufs={"starcoder2": TIED},
        converter=Starcoder2Converter(MODEL_ARCH.STARCODER2),
    )
]
