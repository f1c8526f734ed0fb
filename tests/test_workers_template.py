"""Chat templates say what transformers makes of them, and none of them goes on for ever."""

from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from workers.checkpoints.template import EndlessError, render

MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is 2 > 1? äß 東"}]}]
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML = (
    "{%- for m in messages %}\n  {{ '<|im_start|>' + m['role'] + '\n' }}{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for p in m['content'] | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
    "{% for p in m.content if p.type == 'text' %}{% generation %}{{ loop.index ~ p['text'] ~ loop.last }}"
    "{% endgeneration %}{% endfor %}{% endif %}\n{%- endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        "{{ bos_token }}{{ messages | tojson(indent=1) }}{{ tools is none }}{{ eos_token * 3 }}{{ 7 * 6 + 1 }}",
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% continue %}{% endfor %}"
        "{{ ns.n }}",
        "{% macro part(p) %}[{{ p.type | upper }}]{% endmacro %}"
        "{% for p in messages[0].content %}{{ part(p) }}{% endfor %}",
        "{% for a in range(300) %}{% for b in range(10) %}{{ a ~ '-' ~ b }}{% endfor %}{% endfor %}",
        "{{ dict(a=1).a }}{{ messages[0]['role'].title() }}{{ '%s' % bos_token }}"
        "{{ messages[0].content[1].text | trim }}",
    ],
)
def test_the_text_is_that_of_transformers(template):
    (theirs,), _ = render_jinja_template([MESSAGES], chat_template=template, add_generation_prompt=True, **NAMES)
    assert render(template, MESSAGES, NAMES) == theirs


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set s = 'x' * 1000 %}{% for a in s %}{% for b in s %}{% for c in s %}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
        "{% for x in [9] recursive %}{% for y in [1, 2] %}{% if loop.depth < 40 %}{% endif %}{% endfor %}"
        "{% if loop.depth < 40 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s[0] }}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s[0] }}",
        "{{ ('x' * 99999999999)[0] }}",
        "{{ [0] * 99999999999 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{% for i in range(9999) %}{{ 'many words of a template' * 10 }}{% endfor %}",
    ],
)
def test_what_takes_more_than_a_prompt_can_need_is_an_error(template):
    with pytest.raises(EndlessError, match=r"^it (takes more than|makes a text|computes with|writes more than)"):
        render(template, MESSAGES, NAMES)


def test_steps_are_counted_for_each_prompt():
    template = "{% for a in range(60000) %}{% endfor %}x"
    assert [render(template, MESSAGES, NAMES) for _ in range(3)] == ["x"] * 3


def test_no_prompt_depends_on_the_day():
    asks = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}26 Jul 2024{% endif %}"
    assert render(asks, MESSAGES, NAMES) == "26 Jul 2024"
    with pytest.raises(Exception, match="'strftime_now' is undefined"):
        render("{{ strftime_now('%d') }}", MESSAGES, NAMES)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ namespace(_x=1) }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ dict.__globals__['__builtins__'] }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('not like this') }}",
    ],
)
def test_nothing_leaves_the_sandbox(template):
    with pytest.raises(Exception, match=r"unsafe|is undefined|unsupported|namespace|not like this|not safe|subscript"):
        render(template, MESSAGES, NAMES)
