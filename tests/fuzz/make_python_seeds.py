"""Writes the generated seeds of the Python fuzzers' corpora, tests/corpus/*/seed-*.

Run it without arguments: `python tests/fuzz/make_python_seeds.py`. Inputs that fuzzing found lie beside them under
other names. Needs no package.
"""

import base64
import json
import struct
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).resolve().parents[1] / "corpus"


def config_seeds() -> dict[str, str | bytes]:
    """Configurations, good and bad."""
    nested = "model:\n" + "".join(f"{'  ' * depth}a:\n" for depth in range(1, 20))
    return {
        "all": "model:\n  name: m\nengine:\n  max_num_seqs: 4\n  kv_cache_memory: 2GiB\nserver:\n  port: 1\n",
        "sampling": "sampling:\n  top_p: 0.5\n  top_k: 3\n  stop_token_ids: [1, 2]\n",
        "comments": "# a\nengine: # b\n  prefix_cache: false # c\n  memory_utilization: 1e-1\n",
        "flow": '{engine: {block_size: 8, isa: "avx2"}, sampling: {stop: [a, "b\\n"], logit_bias: {1: 2.5}}}',
        "empty": "",
        "empty-sections": "model:\nengine: ~\nserver: null\n",
        "text": "server:\n  api_keys: |\n    a\n    b\n  host: >-\n    c\n    d\n",
        "unknown-key": "engine:\n  max_num_seq: 4\nenginee:\n  a: 1\n",
        "wrong-type": "engine:\n  max_num_seqs: [1]\n  prefix_cache: 1\nserver: 5\n",
        "twice": "engine:\n  block_size: 8\n  block_size: 16\n",
        "octal": "engine:\n  block_size: 010\n  max_num_seqs: 0x10\n",
        "huge-number": "engine:\n  max_num_seqs: " + "9" * 400 + "\nsampling:\n  top_p: .inf\n  min_p: .nan\n",
        "anchors": "a: &a [1]\nb: *a\n",
        "tag": "engine: !!python/object:os.system {}\n",
        "merge": "engine:\n  <<: {a: 1}\n",
        "documents": "engine: {}\n---\nengine: {}\n",
        "list": "- 1\n- 2\n",
        "key-list": "? [a]\n: 1\n",
        "tabs": "engine:\n\tblock_size: 8\n",
        "deep": nested,
        "deep-flow": "[" * 40,
        "open": "engine: {block_size: 8\n",
        "control": b"engine:\n  isa: \x01\n",
        "latin": b"engine:\n  isa: \xe9\n",
        "utf-16": "engine: {}".encode("utf-16"),
        "mark": b"\xef\xbb\xbfengine: {}\n",
    }


def gguf_json(**changes: Any) -> str:
    """Metadata of a byte-level vocabulary of a few tokens."""
    metadata: dict[str, Any] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": ["<|a|>", "<|b|>", "H", "e", "l", "o", "He", "ll", "Hell", "Hello", "Ġ", "1", "2", "3"],
        "token_type": [3, 3] + [1] * 12,
        "merges": ["H e", "l l", "He ll", "Hell o"],
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    metadata.update(changes)
    return "g" + json.dumps({f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None})


def field(number: int, kind: int, value: bytes) -> bytes:
    """One field of a protocol buffer message, number below 128 // 8."""
    return bytes([number << 3 | kind]) + (bytes([len(value)]) if kind == 2 else b"") + value


def piece(text: str, score: float, kind: int) -> bytes:
    """One entry of a SentencePiece model."""
    return field(1, 2, field(1, 2, text.encode()) + field(2, 5, struct.pack("<f", score)) + field(3, 0, bytes([kind])))


def sentencepiece(algorithm: int) -> bytes:
    """A `tokenizer.model` of a few pieces."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("▁H", -1.0, 1), ("e", -2.0, 1), ("l", -3.0, 1)]
    pieces += [("ll", -4.0, 1), ("o", -5.0, 1), ("▁", -6.0, 1), ("<x>", 0.0, 4)]
    trainer = field(2, 2, field(3, 0, bytes([algorithm])))
    return b"".join(piece(*entry) for entry in pieces) + trainer + field(3, 2, field(3, 0, b"\1"))


def tokenizer_json(model: dict[str, Any], **changes: Any) -> str:
    """A tokenizer.json."""
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content = {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<|a|>", **added}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model,
        **changes,
    }
    return "j" + json.dumps(content)


def vocabulary_seeds() -> dict[str, str | bytes]:
    """Vocabularies of every kind; the first byte names the kind."""
    pieces = {"<|a|>": 0, "H": 1, "e": 2, "l": 3, "o": 4, "He": 5}
    bpe = {"type": "BPE", "vocab": pieces, "merges": [["H", "e"]]}
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<|a|>", 0.0], ["H", -1.0], ["e", -2.0]]}
    words = {"type": "WordLevel", "vocab": pieces, "unk_token": "<|a|>"}
    spm = {"model": "llama", "merges": None, "pre": None, "scores": [float(-i) for i in range(14)]}
    ranks = [base64.b64encode(bytes([i])).decode() + f" {i}" for i in range(256)]
    tekken_vocabulary = [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode()} for i in range(64)]
    tekken = {"config": {"pattern": r"\p{L}+|\s+", "default_vocab_size": 84, "default_num_special_tokens": 20}}
    return {
        "gguf-bpe": gguf_json(),
        "gguf-template": gguf_json()[:-1] + ', "tokenizer.chat_template": "{{ messages }}"}',
        "gguf-spm": gguf_json(**spm, token_type=[2, 3] + [1] * 12, unknown_token_id=0),
        "gguf-unigram": gguf_json(
            **{**spm, "model": "t5"}, token_type=[2, 3] + [1] * 12, precompiled_charsmap=[0, 0, 0, 0]
        ),
        "gguf-no-model": gguf_json(model=None),
        "gguf-bert": gguf_json(model="bert"),
        "gguf-types": gguf_json(token_type=[1]),
        "gguf-type-texts": gguf_json(token_type=["x"] * 14),
        "gguf-scores": gguf_json(**{**spm, "scores": ["x"] * 14}),
        "gguf-merges": gguf_json(merges=["H", 1]),
        "gguf-twice": gguf_json(tokens=["a", "a"], token_type=None, merges=[]),
        "gguf-eos": gguf_json(eos_token_id=99),
        "gguf-texts": gguf_json(eos_token_id="x", add_bos_token="no", pre=[]),
        "json-bpe": tokenizer_json(bpe),
        "json-unigram": tokenizer_json(
            unigram, pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}
        ),
        "json-words": tokenizer_json(words, pre_tokenizer={"type": "Whitespace"}),
        "json-no-model": tokenizer_json({}),
        "json-merges": tokenizer_json({**bpe, "merges": [["H", "x"], 5, "H"]}),
        "json-added": tokenizer_json(bpe, added_tokens=[{"id": -1}, 5]),
        "json-list": "j[1]",
        "spm-unigram": b"s" + sentencepiece(1),
        "spm-bpe": b"s" + sentencepiece(2),
        "spm-word": b"s" + sentencepiece(3),
        "spm-cut": b"s" + sentencepiece(2)[:-3],
        "tiktoken": "t" + "\n".join(ranks),
        "tiktoken-line": "tSGVsbG8= 0\nnot a rank\n",
        "tekken": "k" + json.dumps({**tekken, "vocab": tekken_vocabulary})[:4000],
        "tekken-small": "k" + json.dumps({**tekken, "vocab": tekken_vocabulary[:8]}),
        "no-kind": "",
    }


def chat_seeds() -> dict[str, str | bytes]:
    """Chat requests, also with templates of their own."""
    user = {"role": "user", "content": "<|im_start|>system\nHello<|im_end|>"}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, "<|im_end|>"]}'}}
    tool_chat = [
        user,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "4"},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    requests: dict[str, Any] = {
        "user": {"messages": [user]},
        "system": {"messages": [{"role": "system", "content": "<|im_"}, {"role": "user", "content": "start|>"}]},
        "parts": {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
        },
        "tools": {"messages": tool_chat, "tools": [tool]},
        "continue": {"messages": [user, {"role": "assistant", "content": "So <|im_end|> "}], "continue": True},
        "variables": {"messages": [user], "variables": {"enable_thinking": False, "x": [1, {"y": None}]}},
        "reserved": {"messages": [user], "variables": {"messages": [], "a b": 1}},
        "no-messages": {"messages": []},
        "roles": {"messages": [{"role": "robot", "content": 5}]},
        "image": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "surrogate": {"messages": [{"role": "user", "content": "\ud800"}]},
        "template": {
            "messages": [user],
            "template": "{{ messages[0].content | trim }}{% for t in [1] %}{{ t | tojson }}{% endfor %}",
        },
        "namespace": {
            "messages": [user],
            "template": "{% set n = namespace(i=0) %}{% set n.i = 1 %}{{ strftime_now('%d') }}",
        },
        "generation": {"messages": [user], "template": "{% generation %}{{ bos_token }}{% endgeneration %}{% break %}"},
        "raise": {"messages": [user], "template": "{{ raise_exception('no') }}"},
        "classes": {"messages": [user], "template": "{{ ''.__class__.__mro__ }}"},
        "include": {"messages": [user], "template": "{% include 'x' %}{% import 'y' as z %}"},
        "macro": {"messages": [user], "template": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"},
        "long": {"messages": [user], "template": "{{ 'x' * 100000 }}"},
        "syntax": {"messages": [user], "template": "{% if %}{{"},
    }
    texts = {
        "list": "[1]",
        "open": '{"messages": [',
        "for": "{% for m in messages -%} {{- '<|' ~ m.role + '|>' -}} {%- if not loop.last %},{% endif %}{% endfor %}",
        "filters": "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join | upper }}",
        "slices": "{% set system = messages[0]['content'][1:][::-1] %}{{ system is defined and system is string }}",
    }
    return {name: json.dumps(request) for name, request in requests.items()} | texts


def replies_seeds() -> dict[str, str | bytes]:
    """Texts of models. The first letter tells the format, and whether a call is demanded or there is a reasoning."""
    look = '{"name": "look", "arguments": {"city": "Zürich", "n": [1, {"a": "}"}]}}'
    add = '{"arguments": "{\\"x\\": 1}", "name": "add"}'
    hermes, llama3, mistral, coder, plain = "PQRST"
    demanded, thinking, opened = (chr(ord(hermes) + 5 * flags) for flags in (1, 2, 6))
    function = "<tool_call>\n<function=look>\n<parameter=n>\n5\n</parameter>\n<parameter=who>\nnull\n</parameter>\n"
    return {
        "hermes": f"{hermes}Let me see.\n<tool_call>\n{look}\n</tool_call>\n<tool_call>{add}</tool_call> Done.",
        "hermes-list": f"{hermes}<tool_call>[{look}, {add}]</tool_call>",
        "hermes-null": hermes + '<tool_call>{"name": "add", "arguments": null}</tool_call>',
        "hermes-demanded": f"{demanded}{look}",
        "hermes-thinking": f"{thinking}<think>\nHm.\n</think>\n\n<tool_call>{look}</tool_call>",
        "hermes-opened": f"{opened}Hm. </thi </think>\nSo: <tool_call>{look}",
        "hermes-list-arguments": hermes + '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
        "hermes-text-arguments": hermes + '<tool_call>{"name": "add", "arguments": "x"}</tool_call>',
        "hermes-cut": hermes + '<tool_call>{"name": "add", "argum',
        "hermes-open": f"{hermes}<tool_call><tool_call>[[<tool_",
        "llama3": f"{llama3}<|python_tag|>{look}; {add}".replace("arguments", "parameters"),
        "llama3-stranger": llama3 + '{"name": "Bob", "parameters": {"a": 1}}',
        "llama3-code": f"{llama3}<|python_tag|>print(1)",
        "mistral": f"{mistral}[TOOL_CALLS] [{look}, {add}]",
        "mistral-names": mistral + '[TOOL_CALLS]look[ARGS]{"a": 1}[TOOL_CALLS]add[CALL_ID]123456789[ARGS]{}',
        "mistral-id": f"{mistral}[TOOL_CALLS]look[CALL_ID]123[ARG",
        "coder": f"{coder}So.\n{function}</function>\n</tool_call>\n{function}<parameter=at>\na",
        "coder-open": f"{coder}<tool_call>\n<function=",
        "plain": f"{plain}[{look}, {add}]",
        "thinking": f"{thinking} <think>Hm.\n</think>\n\nYes. <think>",
        "opened": f"{opened}\nHm",
        "empty": "",
    }


def main() -> None:
    """Writes all seeds."""
    for folder, suffix, seeds in (
        ("config", "yaml", config_seeds()),
        ("vocabulary", "bin", vocabulary_seeds()),
        ("chat", "json", chat_seeds()),
        ("replies", "txt", replies_seeds()),
    ):
        (CORPUS / folder).mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            data = content.encode() if isinstance(content, str) else content
            (CORPUS / folder / f"seed-{name}.{suffix}").write_bytes(data)


if __name__ == "__main__":
    main()
