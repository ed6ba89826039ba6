"""Writes the generated seeds of the C++ fuzzers' corpora, tests/corpus/*/seed-*: `python tests/fuzz/make_seeds.py`.

Inputs that fuzzing found lie beside them under other names. Needs no package.
"""

import json
import re
import struct
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests/corpus"

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
GGUF_BLOCKS = {  # type number -> values and bytes of a block
    0: (1, 4),
    1: (1, 2),
    30: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    20: (32, 18),
    39: (32, 17),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    23: (256, 136),
    24: (1, 1),
    26: (1, 4),
    17: (256, 74),
}


def text(value: str | bytes) -> bytes:
    """A GGUF string."""
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    """A line of GGUF metadata."""
    return text(key) + struct.pack("<I", kind) + value


def u32(key: str, value: int) -> bytes:
    """A line of metadata, the most common kind."""
    return entry(key, U32, struct.pack("<I", value))


def array(key: str, kind: int, items: list[bytes]) -> bytes:
    """A line of metadata with a list of values."""
    return entry(key, ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items))


def tensor(name: str | bytes, dims: list[int], kind: int, offset: int) -> bytes:
    """A tensor's description; dimensions as the file has them, columns first."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf(
    metadata: list[bytes], tensors: list[bytes], data: bytes = b"", version: int = 3, alignment: int = 32
) -> bytes:
    """A whole file."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)) + b"".join(metadata + tensors)
    return head + bytes(-len(head) % alignment) + data


def gguf_of(metadata: list[bytes], rows: list[tuple[str, list[int], int]], alignment: int = 32) -> bytes:
    """A file of tensors (name, dimensions, type) with counting bytes as data."""
    tensors, data = [], b""
    for name, dims, kind in rows:
        values, size = GGUF_BLOCKS[kind]
        num_values = 1
        for dim in dims:
            num_values *= dim
        tensors.append(tensor(name, dims, kind, len(data)))
        data += bytes(i * 7 % 251 for i in range(num_values // values * size))
        data += bytes(-len(data) % alignment)
    return gguf(metadata, tensors, data, alignment=alignment)


def model_metadata(arch: str) -> list[bytes]:
    """What every architecture has: 1 layer, hidden 4, 2 heads."""
    numbers = {"block_count": 1, "embedding_length": 4, "feed_forward_length": 4, "context_length": 16}
    numbers |= {"attention.head_count": 2, "attention.head_count_kv": 1, "rope.dimension_count": 2}
    return [
        entry("general.architecture", STRING, text(arch)),
        *(u32(f"{arch}.{key}", value) for key, value in numbers.items()),
        entry(f"{arch}.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5)),
        entry(f"{arch}.rope.freq_base", F32, struct.pack("<f", 1e4)),
        u32("tokenizer.ggml.eos_token_id", 2),
    ]


def model(arch: str, extra: list[tuple[str, list[int], int]]) -> bytes:
    """A complete tiny model."""
    square = ["attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    rows = [("token_embd.weight", [4, 3], 0), ("output_norm.weight", [4], 0)]
    rows += [(f"blk.0.{name}.weight", [4, 4], 1) for name in square]
    rows += [(f"blk.0.{name}.weight", [4, 2], 30) for name in ("attn_k", "attn_v")]
    rows += [(f"blk.0.{name}.weight", [4], 0) for name in ("attn_norm", "ffn_norm")]
    return gguf_of(model_metadata(arch), rows + extra)


GGUF_NAME = r'(?:gguf_name = |(?:ForCausalLM|LMHeadModel)",\s*)"([a-z0-9-]+)"'


def gguf_files() -> dict[str, bytes]:
    """GGUF files that are read, by name."""
    most = 2**64 - 1
    bias = [(f"blk.0.attn_{name}.bias", [size], 0) for name, size in (("q", 4), ("k", 2), ("v", 2))]
    norms = [(f"blk.0.attn_{name}_norm.weight", [2], 0) for name in "qk"]
    kinds = [
        entry("u8", U8, b"\xc8"),
        entry("i8", I8, b"\x9c"),
        entry("u16", U16, b"\x60\xea"),
        entry("i16", I16, b"\xd0\x8a"),
        u32("u32", 2**31),
        entry("i32", I32, struct.pack("<i", -5)),
        entry("f32", F32, struct.pack("<f", 0.5)),
        entry("yes", BOOL, b"\1"),
        entry("string", STRING, text("h\xe9")),
        entry("u64", U64, struct.pack("<Q", most)),
        entry("i64", I64, struct.pack("<q", -(2**63))),
        entry("f64", F64, struct.pack("<d", 1e-300)),
        array("strings", STRING, [text(""), text(b"\xff"), text("abc")]),
        array("bools", BOOL, [b"\1", b"\0"]),
        array("large", U64, [struct.pack("<Q", most)]),
        array("floats", F32, [struct.pack("<f", 2.5)]),
        array("none", STRING, []),
    ]
    small = [(f"t{kind}", [256, 1], kind) for kind, (values, _) in GGUF_BLOCKS.items() if values == 32]
    large = [(f"t{kind}", [256, 1], kind) for kind, (values, _) in GGUF_BLOCKS.items() if values == 256]
    one = tensor("w", [1], 0, 0)
    split = [
        entry("split.no", U16, b"\0\0"),
        entry("split.count", U16, b"\3\0"),
        entry("split.tensors.count", I32, b"\3\0\0\0"),
    ]
    return {
        "llama": model("llama", []),
        "llama-head": model("llama", [("output.weight", [4, 3], 0), ("rope_freqs.weight", [1], 0)]),
        "qwen3": model("qwen3", norms),
        "kinds": gguf(kinds, []),
        "blocks-of-32": gguf_of([], small),
        "blocks-of-256": gguf_of([], large),
        "no-weights": gguf_of([], [("a", [3], 24), ("b", [2, 3, 1, 1], 26)]),
        "alignment-8": gguf_of([u32("general.alignment", 8)], [("a", [1], 0), ("b", [1], 0)], 8),
        "version-2": gguf([], [one], bytes(4), version=2),
        "unknown-type": gguf([], [tensor("w", [7], 77, 0)], bytes(4)),
        "part-of-split": gguf(split, [one], bytes(4)),
        **{f"model-{name}": model(name, bias) for name in sorted(set(re.findall(GGUF_NAME, architecture_sources())))},
    }


def malformed_gguf_files() -> dict[str, bytes]:
    """GGUF files that are refused, by name."""
    most = 2**64 - 1
    one = tensor("w", [1], 0, 0)
    return {
        "magic": b"GGML" + bytes(40),
        "big-endian": gguf([], [], version=0x03000000),
        "version-1": gguf([], [], version=1),
        "short": b"GGUF\3\0\0",
        "many-tensors": b"GGUF" + struct.pack("<IQQ", 3, most, 0) + bytes(64),
        "many-entries": b"GGUF" + struct.pack("<IQQ", 3, 0, most) + bytes(64),
        "long-key": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, most) + bytes(16),
        "long-string": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + entry("s", STRING, struct.pack("<Q", most)),
        "long-array": b"GGUF"
        + struct.pack("<IQQ", 3, 0, 1)
        + entry("a", ARRAY, struct.pack("<IQ", U64, 2**61))
        + bytes(8),
        "nested-array": gguf([entry("a", ARRAY, struct.pack("<IQ", ARRAY, 0))], []),
        "alignment-3": gguf([u32("general.alignment", 3)], [one], bytes(4)),
        "key-twice": gguf([u32("n", 1), u32("n", 2)], []),
        "tensor-twice": gguf([], [one, tensor("w", [1], 0, 32)], bytes(36)),
        "overlap": gguf([], [tensor("a", [9], 0, 0), tensor("b", [1], 0, 32)], bytes(36)),
        "no-dims": gguf([], [tensor("w", [], 0, 0)], bytes(4)),
        "nine-dims": gguf([], [tensor("w", [1] * 9, 0, 0)], bytes(4)),
        "huge": gguf([], [tensor("a", [2**62 - 32], 24, 0), tensor("b", [2**62 - 32], 24, 2**62)], bytes(64)),
        "half-block": gguf([], [tensor("w", [128], 14, 0)], bytes(210)),
        "beyond": gguf([], [tensor("w", [1], 0, most - 31)], bytes(4)),
        "not-utf8": gguf([entry(b"a\xff", U8, b"\1")], []),
        "other-model": gguf([entry("general.architecture", STRING, text("starcoder9"))], []),
    }


ELEMENT_BITS = {
    "F64": 64,
    "F32": 32,
    "F16": 16,
    "BF16": 16,
    "I64": 64,
    "I32": 32,
    "I16": 16,
    "I8": 8,
    "U64": 64,
    "U32": 32,
    "U16": 16,
    "U8": 8,
    "BOOL": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F4": 4,
    "C64": 64,
}


def safetensors(rows: list[tuple[str, str, list[int]]], metadata: dict[str, str] | None = None) -> bytes:
    """A file of tensors (name, type, shape) with counting bytes as data."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, kind, shape in rows:
        num_bits = ELEMENT_BITS[kind]
        for dim in shape:
            num_bits *= dim
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end := end + num_bits // 8]}
    return with_header(json.dumps(header, separators=(",", ":")), bytes(i * 5 % 253 for i in range(end)))


def with_header(header: str | bytes, data: bytes = b"") -> bytes:
    """Any header in front of any data."""
    head = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(head)) + head + data


def one_tensor(kind: str, shape: str, begin: int, end: int, data: bytes = bytes(8)) -> bytes:
    """A file with one tensor described by this text."""
    return with_header(f'{{"w":{{"dtype":"{kind}","shape":{shape},"data_offsets":[{begin},{end}]}}}}', data)


def safetensors_seeds() -> dict[str, bytes]:
    """Good and bad safetensors files by name."""
    hole = '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}}'
    return {
        "plain": safetensors([("a", "F32", [2, 3]), ("b", "BF16", [4]), ("c", "F16", [])], {"format": "pt"}),
        "every-type": safetensors([(kind.lower(), kind, [8]) for kind in ELEMENT_BITS]),
        "no-elements": safetensors([("a", "F32", [0, 5]), ("b", "I8", [0])]),
        "no-tensors": with_header("{}"),
        "awq": safetensors([("m.qweight", "I32", [32, 1]), ("m.qzeros", "I32", [1, 1]), ("m.scales", "F16", [1, 8])]),
        "gptq": safetensors(
            [
                ("m.qweight", "I32", [8, 8]),
                ("m.qzeros", "I32", [2, 1]),
                ("m.scales", "F16", [2, 8]),
                ("m.g_idx", "I32", [64]),
            ]
        ),
        "gptq-8": safetensors([("m.qweight", "I32", [8, 4]), ("m.qzeros", "I32", [1, 1]), ("m.scales", "F16", [1, 4])]),
        "fp8": safetensors([("m.weight", "F8_E4M3", [32, 32]), ("m.weight_scale_inv", "F32", [1, 1])]),
        "fp8-channel": safetensors([("m.weight", "F8_E4M3", [4, 32]), ("m.weight_scale", "F32", [4, 1])]),
        "packed-int4": safetensors(
            [
                ("m.weight_packed", "I32", [8, 4]),
                ("m.weight_scale", "BF16", [8, 1]),
                ("m.weight_zero_point", "I32", [1, 1]),
                ("m.weight_shape", "I64", [2]),
            ]
        ),
        "int8": safetensors([("m.weight", "I8", [4, 32]), ("m.weight_scale", "BF16", [4, 1])]),
        "short": b"abc",
        "huge-header": struct.pack("<Q", 2**63) + b"{}",
        "long-header": struct.pack("<Q", 3) + b"{}",
        "null": with_header("null"),
        "array": with_header("[1,2]"),
        "not-utf8": with_header(b'{"\xff":1}'),
        "deep": with_header("[" * 100),
        "unknown-type": one_tensor("F128", "[1]", 0, 8),
        "negative": one_tensor("U8", "[-8]", 0, 8),
        "float-shape": one_tensor("U8", "[8.0]", 0, 8),
        "backwards": one_tensor("U8", "[8]", 8, 0),
        "beyond": one_tensor("U8", "[9]", 0, 9),
        "too-short": one_tensor("U8", "[9]", 0, 8),
        "overflow": one_tensor("F32", "[4294967296,4294967296]", 0, 8),
        "tail": one_tensor("U8", "[4]", 0, 4),
        "hole": with_header(hole % (2, 3), bytes(3)),
        "overlap": with_header(hole % (0, 1), bytes(1)),
        "twice": with_header('{"a":{},"a":{}}'),
        "metadata": with_header('{"__metadata__":[]}'),
    }


CONFIG: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "norm_eps": 1e-5,
    "norm_epsilon": 1e-5,
    "hidden_act": "silu",
    "activation_function": "gelu_new",
    "rope_theta": 1e4,
    "tie_word_embeddings": True,
    "eos_token_id": [2, 3],
    "sliding_window": 16,
    "sliding_window_pattern": 2,
    "n_embd": 32,
    "n_head": 4,
    "n_layer": 2,
    "n_positions": 64,
    "n_inner": None,
    "num_layers": 2,
    "logit_scale": 0.1,
    "layer_types": ["sliding_attention", "full_attention"],
    "partial_rotary_factor": 0.5,
    "rotary_pct": 0.25,
    "query_pre_attn_scalar": 8,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "no_rope_layers": [1, 0],
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.2,
    "attention_multiplier": 0.1,
    "logits_scaling": 8.0,
}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0},
    "longrope": {
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 16,
        "factor": 4.0,
    },
    "llama3": {"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 16},
}
QUANTISATIONS: list[dict[str, Any]] = [
    {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
    {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 32,
        "desc_act": False,
        "sym": True,
        "dynamic": {"+:m": {"bits": 8}},
    },
    {"quant_method": "fp8", "weight_block_size": [128, 128]},
    {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "strategy": "group", "group_size": 32}}
        },
    },
    {"load_in_4bit": True},
]


def json_seeds() -> dict[str, bytes]:
    """Texts at the edges of JSON, and a configuration for every architecture, rope and quantisation."""
    seeds = {
        "values": b'[null,true,false,0,-1,1.5e300,1e-300,9223372036854775807,NaN,-Infinity,"\\ud83d\\ude00\\n\\u0000"]',
        "twice": b'{"a":1,"b":{"c":[]},"a":{"a":2}}',
        "deep": b"[" * 63 + b"]" * 63,
        "too-deep": b"[" * 65,
        "half-surrogate": b'"\\ud800"',
        "escape": b'"\\x"',
        "control": b'"a\x01"',
        "not-utf8": b'["\xc0\x80"]',
        "mark": b"\xef\xbb\xbf{}",
        "number": b"1.e5",
        "leading-zero": b"01",
        "trailing": b"{} {}",
        "open": b'{"a":[1,',
        "range": b"1e999",
    }
    names = sorted(
        set(re.findall(r'"(\w+(?:ForCausalLM|LMHeadModel|ForConditionalGeneration))"', architecture_sources()))
    )
    for name in names:
        values: dict[str, Any] = {"text_config": CONFIG} if name.endswith("Generation") else CONFIG
        seeds[f"config-{name}"] = json.dumps({"architectures": [name], **values}).encode()
    base = {"architectures": ["LlamaForCausalLM"], **{key: CONFIG[key] for key in list(CONFIG)[:9]}}
    for kind, values in ROPES.items():
        seeds[f"rope-{kind}"] = json.dumps(
            {**base, "rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **values}}
        ).encode()
    for quantisation in QUANTISATIONS:
        name = quantisation.get("quant_method", "old")
        seeds[f"quantised-{name}"] = json.dumps({**base, "quantization_config": quantisation}).encode()
    return seeds


def architecture_sources() -> str:
    """The files that hold the names of the supported architectures."""
    return "".join(path.read_text() for path in sorted((ROOT / "cpp/model/arch").glob("*.cc")))


def main() -> None:
    """Writes all seeds."""
    for folder, suffix, seeds in (
        ("gguf", "gguf", gguf_files() | malformed_gguf_files()),
        ("safetensors", "safetensors", safetensors_seeds()),
        ("json", "json", json_seeds()),
    ):
        (CORPUS / folder).mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (CORPUS / folder / f"seed-{name}.{suffix}").write_bytes(data)


if __name__ == "__main__":
    main()
