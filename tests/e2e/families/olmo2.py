"""OLMo 2 and 3."""

from __future__ import annotations

from typing import Any

import gguf
import transformers
from e2e.tiny_gguf import Converter
from e2e.tiny_models import DROPPED, Directory, Family
from gguf import MODEL_ARCH

ODD_SIZES = {
    "vocab_size": 333,
    "hidden_size": 54,
    "intermediate_size": 77,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 3,
}

OLMO2 = Family(
    transformers.Olmo2Config,
    transformers.Olmo2ForCausalLM,
    sizes={"head_dim": DROPPED},
    directories={
        "olmo2": Directory(),
        "olmo2-mha-tied": Directory({"num_key_value_heads": 4, "tie_word_embeddings": True}),
        "olmo2-odd-sizes-biases": Directory({**ODD_SIZES, "attention_bias": True}, max_shard_size="50KB"),
    },
    ggufs={"olmo2": {}},
    converter=Converter(MODEL_ARCH.OLMO2),
    equations=["olmo2"],
)


class Olmo3Converter(Converter):
    """Has OLMo 2's name; the windows by layer."""

    def metadata(self, writer: gguf.GGUFWriter, config: Any) -> None:
        super().metadata(writer, config)
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])


YARN = {
    "rope_type": "yarn",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "attention_factor": 1.2079441541679836,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
TWO_ROPES = {
    "full_attention": YARN,
    "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
}


def old_olmo3(config: dict[str, Any]) -> None:
    """As OLMo 3 was published: one base, the scaling for layers without window only."""
    config.pop("rope_parameters")
    config["rope_theta"] = YARN["rope_theta"]
    config["rope_scaling"] = {name: value for name, value in YARN.items() if name != "rope_theta"}


OLMO3 = Family(
    transformers.Olmo3Config,
    transformers.Olmo3ForCausalLM,
    sizes={"head_dim": DROPPED, "num_hidden_layers": 5, "hidden_size": 32, "sliding_window": 20},
    directories={
        "olmo3": Directory(edit=lambda config: config.pop("layer_types")),
        "olmo3-yarn": Directory({"rope_parameters": TWO_ROPES, "max_position_embeddings": 512}),
        "olmo3-old-yarn": Directory(
            {"rope_parameters": TWO_ROPES, "max_position_embeddings": 512, "tie_word_embeddings": True}, edit=old_olmo3
        ),
        "olmo3-odd-sizes": Directory(
            {
                "vocab_size": 331,
                "hidden_size": 90,
                "intermediate_size": 77,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "sliding_window": 17,
            },
            max_shard_size="60KB",
        ),
    },
    ggufs={"olmo3": {"rope_parameters": TWO_ROPES, "max_position_embeddings": 512}},
    converter=Olmo3Converter(MODEL_ARCH.OLMO2),
    equations=["olmo3-yarn"],
)

FAMILIES = [OLMO2, OLMO3]
