"""Cohere's Command-R (with and without normed heads) and Cohere 2."""

from __future__ import annotations

from typing import Any

import gguf
import transformers
from e2e.tiny_gguf import Converter, head_dim
from e2e.tiny_models import DROPPED, Directory, Family
from gguf import MODEL_ARCH

SIZES = {"head_dim": DROPPED, "rms_norm_eps": DROPPED, "layer_norm_eps": 1e-5, "logit_scale": 0.5}
TIED = {"tie_word_embeddings": True}
ODD_SIZES = {
    "vocab_size": 331,
    "hidden_size": 90,
    "intermediate_size": 77,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 3,
}
WINDOWS = {"sliding_window": 20, "num_hidden_layers": 4}


def say_nothing_of_the_head(config: dict[str, Any]) -> None:
    """Older files leave out what was the default."""
    config.pop("tie_word_embeddings")


def old_pattern(config: dict[str, Any]) -> None:
    """Windows as Command-R7B's own file says them."""
    config.pop("layer_types")
    config["sliding_window_pattern"] = 4


class CohereConverter(Converter):
    """Rows stay as they are: both sides have rotary pairs as neighbours."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_logit_scale(config.logit_scale)
        writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
        if self.arch == MODEL_ARCH.COHERE2:
            writer.add_sliding_window(config.sliding_window)
            writer.add_vocab_size(config.vocab_size)
            writer.add_rope_dimension_count(head_dim(config))


COHERE = Family(
    transformers.CohereConfig,
    transformers.CohereForCausalLM,
    sizes=SIZES,
    directories={
        "cohere": Directory(TIED, edit=say_nothing_of_the_head),
        "cohere-normed-heads": Directory({"use_qk_norm": True, **TIED}, max_shard_size="60KB"),
        "cohere-biases": Directory({"attention_bias": True}),
        "cohere-odd-sizes": Directory({**ODD_SIZES, "use_qk_norm": True}),
    },
    ggufs={"cohere": TIED, "cohere-normed-heads": {"use_qk_norm": True, **TIED}},
    converter=CohereConverter(MODEL_ARCH.COMMAND_R),
    equations=["cohere-normed-heads"],
)

COHERE2 = Family(
    transformers.Cohere2Config,
    transformers.Cohere2ForCausalLM,
    sizes=SIZES,
    directories={
        "cohere2": Directory({**WINDOWS, **TIED}, max_shard_size="60KB"),
        "cohere2-old-pattern": Directory({**WINDOWS, **TIED}, edit=old_pattern),
        "cohere2-odd-sizes": Directory(
            {
                **ODD_SIZES,
                "sliding_window": 7,
                "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            }
        ),
    },
    ggufs={"cohere2": {**WINDOWS, **TIED}},
    converter=CohereConverter(MODEL_ARCH.COHERE2),
    equations=["cohere2"],
)

FAMILIES = [COHERE, COHERE2]
