"""Hostile and broken chat templates end with an error, and the worker renders the next one as if nothing had been."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pagoda.chat_template import ChatTemplate, TemplateError

USER = [{"role": "user", "content": "hi"}]
GOOD = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"


@pytest.fixture(scope="module")
def template() -> Iterator[ChatTemplate]:
    made = ChatTemplate(GOOD, time_budget_s=1.0, max_output_chars=100_000, memory_bytes=400 << 20)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        # into Python
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ ''['__class__'] }}{{ ''.__class__.__name__ }}", "unsafe"),
        ("{{ ''|attr('__class__') }}{{ (''|attr('__class__')).x }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os }}", "unsafe"),
        ("{{ raise_exception.__globals__['sys'] }}", "unsafe"),
        ("{{ namespace.__init__.__globals__ }}{{ self.__init__.x }}", "unsafe"),
        ("{{ dict.__call__.__globals__.x }}", "unsafe"),
        ("{{ '{0.__class__.__mro__}'.format(1) }}", "unsafe"),
        ("{{ '{x.__class__.__mro__}'.format_map({'x': 1}) }}", "unsafe"),
        ("{{ ''.join.__self__.x }}", "unsafe"),
        ("{{ messages._private.x }}", "no attribute '_private'"),
        ("{{ namespace(__class__=1) }}", "underscore"),
        ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "underscore"),
        # change of what was given
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].update({'role': 'system'}) }}", "unsafe"),
        # other files
        ("{% include 'x' %}", "no loader"),
        ("{% import 'x' as x %}", "no loader"),
        ("{% from 'x' import y %}", "no loader"),
        ("{% extends '/etc/passwd' %}", "no loader"),
        # time
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        (LOOPS, "ran longer than 1 s"),
        ("{{ 7 ** (7 ** 9) }}", "ran longer than 1 s|too much memory|Exceeds the limit"),
        # output
        ("{{ 'a' * 10485760 }}", "wrote more than 100000 characters"),
        ("{% for i in range(99999) %}ab{% endfor %}", "wrote more than 100000 characters"),
        ("{{ lipsum(n=2000) }}", "wrote more than 100000 characters|ran longer"),
        # memory
        ("{{ 'a' * 10**11 }}", "too much memory"),
        ("{% set x = [0] * 10**10 %}", "too much memory"),
        ("{{ 'a' | center(10**11) }}", "too much memory"),
        ("{{ '%0100000000000d' % 1 }}", "too much memory|too large|too big"),
        ("{{ '{:>100000000000}'.format(1) }}", "too much memory|Too many|too large"),
        (DOUBLED, "too much memory|ran longer"),
        ("{% macro f(x) %}{{ f(x + x) }}{% endmacro %}{{ f('ab') }}", "too much memory|nests too deeply|ran longer"),
        # depth
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nests too deeply"),
        ("{% for a in [[1]] recursive %}{{ loop([a]) }}{% endfor %}", "nests too deeply"),
        ("{{ " + "(" * 5000, "nests too deeply"),
        ("{{ " + "[" * 150 + "]" * 150 + " }}", "too many nested|nests too deeply|unexpectedly"),
        ("{% if 1 %}" * 500 + "{% endif %}" * 500, "too many|nests too deeply|unexpectedly"),
        # mistakes
        ("{{ raise_exception('Roles must alternate') }}", "^Roles must alternate$"),
        ("{{ raise_exception('a' * 10**7) }}", "^a{500}$"),
        ("{{ raise_exception(missing) }}", "^TemplateError$"),
        ("a\n{% if %}", r"Expected an expression.*\(line 2\)"),
        ("{{ missing.field }}", "'missing' is undefined"),
        ("{% for i in 5 %}{% endfor %}", "not iterable"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_a_hostile_template_fails_and_the_next_one_renders(template: ChatTemplate, source: str, message: str) -> None:
    begin = time.monotonic()
    with pytest.raises(TemplateError, match=message):
        template.render(USER, chat_template=source)
    assert time.monotonic() - begin < 30
    assert template.render(USER) == "user: hi"


def test_a_template_is_hostile_to_probing_and_guarding_too(template: ChatTemplate) -> None:
    lists = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert template.reads_parts(LOOPS, "user") is False
    with pytest.raises(TemplateError, match="ran longer than 1 s"):
        template.render(lists, chat_template=LOOPS)
    assert template.render(lists) == "user: hi"


def test_many_templates_leave_the_first_one_working(template: ChatTemplate) -> None:
    for number in range(40):
        assert template.render(USER, chat_template=f"{number}") == str(number)
    assert template.render(USER) == "user: hi"


def test_arguments_that_nest_too_deeply_are_refused(template: ChatTemplate) -> None:
    deep: object = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TemplateError, match="nest too deeply"):
        template.render(USER, chat_template="x", deep=deep)
    deep = "x"
    for _ in range(600):
        deep = [deep]
    with pytest.raises(TemplateError, match=r"nests? too deeply"):
        template.render(USER, chat_template="{{ deep | tojson }}{{ deep }}" * 3, deep=deep)
    assert template.render(USER) == "user: hi"
