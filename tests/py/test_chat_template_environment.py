"""What templates find in their environment: Jinja settings, extensions, filters and variables as in transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from text_tokenizers import byte_level, byte_level_gguf, write_directory
from transformers import PreTrainedTokenizerFast

from pagoda.chat_template import ChatTemplate, TemplateError
from pagoda.tokenizer import Tokenizer

USER = [{"role": "user", "content": "hi <é>"}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

SOURCES = [
    # settings: trim_blocks, lstrip_blocks, no trailing newline, no escaping
    "a\n  {% if true %}\n  x\n  {% endif %}\n  y\n",
    "a {{ messages[0].content }} {#- gone -#} b\n\n",
    "{%+ if true %} x {% endif +%}\ny",
    "{% raw %}{{ x }}{% endraw %}",
    # extensions
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{% for m in messages %}{% generation %}{{ loop.index }}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% for i in [1, 2] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% generation %}",
    "{% do [].append(1) %}",
    "{% trans %}x{% endtrans %}",
    # filters
    "{{ {'b': '<é>', 'a': [none, true, 1.0, 1e30]} | tojson }}",
    "{{ {'b': 1, 'a': '\u2028'} | tojson(indent=2, sort_keys=true, ensure_ascii=true) }}",
    "{{ [1, {'a': 2}] | tojson(separators=(',', ':')) }}",
    "{{ [1, 2] | tojson(-1) }}|{{ missing | tojson }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(',') | upper }}",
    "{{ {'b': 1, 'a': 2} | dictsort }}{{ {'b': 1} | items | list }}{{ [3, 1] | sort | first }}",
    "{{ ' x '|trim }}|{{ 'x' | indent(4, true) }}|{{ 'a b' | title }}|{{ missing | default('d') }}|{{ '' or 'e' }}",
    "{{ '%s=%d' | format('a', 3) }}{{ 'a' ~ 1 ~ none }}{{ [1, 2, 3] | batch(2) | list }}",
    "{{ 'a' | safe }}{{ '<' | escape }}{{ '<b>x</b>' | striptags }}{{ 'ä' | urlencode }}",
    "{{ messages | string }}{{ 1.0 }}{{ none }}{{ true }}{{ [1, 'a'] }}{{ 'x' | list }}",
    # tests and methods
    "{{ x is defined }}{{ '' is string }}{{ {} is mapping }}{{ [] is iterable }}{{ 1 is number }}{{ none is none }}",
    "{{ 'abc'[1:] }}{{ [1, 2, 3][::-1] }}{{ 'a,b'.split(',')[-1] }}{{ {'a': 1}.get('b', 2) }}",
    "{{ 'x'.items }}|{{ messages[0].items() | list }}|{{ messages[0].missing }}|{{ messages[9] }}",
    "{{ 'a' in missing }}{{ missing == none }}{{ missing | length }}",
    # globals
    "{% set ns = namespace(n=1, self=2) %}{% for i in [2, 3] %}{% set ns.n = i %}{% endfor %}{{ ns.n }}{{ ns.self }}",
    "{% set ns = namespace({'a': 1}) %}{{ ns.a }}{{ ns.b }}",
    "{{ namespace(_a=1) }}",
    "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "{{ dict(a=1, b=2) }}{{ dict([('a', 1)]) }}{{ dict.fromkeys(['a'], 3) }}",
    "{{ raise_exception('no') }}",
    "{{ strftime_now('%Y %B %d') }}",
    "{{ range(3) | list }}{{ cycler('a', 'b').next() }}{% set j = joiner(',') %}{{ j() }}{{ j() }}",
    # variables
    "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ sep_token is defined }}{{ cls_token }}",
    "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ documents is defined }}",
    "{{ add_generation_prompt }}{{ continue_final_message is defined }}{{ chat_template is defined }}",
    "{{ mood }}{{ level + 1 }}{{ missing }}",
    "{{ missing + 'x' }}",
    "{{ missing.field }}",
    # macros and scopes
    "{% macro f(a, b='x') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, c=4) }}",
    "{% macro f() %}[{{ caller('y') }}]{% endmacro %}{% call(x) f() %}{{ x }}{% endcall %}",
    "{% set x %}a{{ 1 }}{% endset %}{{ x | upper }}{% filter upper %}b{% endfilter %}",
    "{% with a = 1 %}{{ a }}{% endwith %}{{ a }}",
    "{% for k, v in {'a': 1}.items() recursive %}{{ k }}{{ loop.first }}{{ loop.length }}{% else %}none{% endfor %}",
    "{% set a, b = 1, 2 %}{{ b }}{{ a if a > 1 }}{{ 7 // 2 }}{{ 2 ** 5 }}{{ 'a' * 3 }}{{ 1 < 2 < 3 }}",
    "{% if x %}",
    "{{ 1 / 0 }}",
    "{{ ''.__class__ }}",
    "{{ messages.append(1) }}",
    "{{ '{0.__class__}'.format(1) }}",
]


@pytest.fixture(scope="module")
def template() -> Iterator[ChatTemplate]:
    further = {name: token for name, token in TOKENS.items() if name not in ("bos_token", "eos_token")}
    made = ChatTemplate("", TOKENS["bos_token"], TOKENS["eos_token"], special_tokens=further)
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=byte_level(), **TOKENS)


@pytest.mark.parametrize("source", SOURCES)
def test_templates_find_what_transformers_offers(
    template: ChatTemplate, reference: PreTrainedTokenizerFast, source: str
) -> None:
    options = {"mood": "calm", "level": 2}
    try:
        text = reference.apply_chat_template(
            USER, chat_template=source, tokenize=False, add_generation_prompt=True, **options
        )
    except Exception:
        with pytest.raises(TemplateError):
            template.render(USER, chat_template=source, **options)
    else:
        assert template.render(USER, chat_template=source, **options) == text


def test_templates_know_the_further_tokens_of_a_models_files(tmp_path: Path) -> None:
    source = "{{ bos_token }} {{ pad_token }} {{ unk_token }} {{ sep_token is defined }}"
    config = {"chat_template": source, "pad_token": {"content": "<|endoftext|>"}, "unk_token": "<|im_start|>"}
    metadata = byte_level_gguf() | {
        "tokenizer.chat_template": source,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.seperator_token_id": 4294967295,
    }
    for tokenizer in (Tokenizer.from_directory(write_directory(tmp_path, config)), Tokenizer.from_gguf(metadata)):
        template = ChatTemplate.for_tokenizer(tokenizer)
        assert template is not None
        assert template.render(USER) == "<|im_start|> <|endoftext|> <|im_start|> False"
        template.close()


def test_a_token_that_the_model_lacks_is_undefined() -> None:
    template = ChatTemplate("{{ bos_token is defined }}{{ bos_token }}{{ eos_token is defined }}")
    assert template.render(USER) == "FalseFalse"
    template.close()
