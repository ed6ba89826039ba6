"""GLM-4 and GLM-4-0414."""

from __future__ import annotations

from typing import Any

import gguf
import transformers
from e2e.tiny_gguf import Converter, head_dim
from e2e.tiny_models import Directory, Family
from gguf import MODEL_ARCH

ODD_SIZES = {
    "vocab_size": 331,
    "hidden_size": 90,
    "intermediate_size": 77,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 12,
    "num_hidden_layers": 3,
}
TIED = {"tie_word_embeddings": True}


class Glm4Converter(Converter):
    """Rows stay as they are: both sides have rotary pairs as neighbours."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_rope_dimension_count(int(config.rope_parameters["partial_rotary_factor"] * head_dim(config)))


GLM = Family(
    transformers.GlmConfig,
    transformers.GlmForCausalLM,
    directories={
        "glm": Directory(),
        "glm-no-bias": Directory({"attention_bias": False, **TIED}, max_shard_size="60KB"),
        "glm-odd-sizes": Directory(ODD_SIZES),
    },
)

GLM4 = Family(
    transformers.Glm4Config,
    transformers.Glm4ForCausalLM,
    directories={
        "glm4": Directory({"attention_bias": False}),
        "glm4-biases": Directory(TIED, max_shard_size="60KB"),
        "glm4-odd-sizes": Directory(ODD_SIZES),
    },
    ggufs={"glm4": {}},
    converter=Glm4Converter(MODEL_ARCH.GLM4),
    equations=["glm4"],
)

FAMILIES = [GLM, GLM4]
