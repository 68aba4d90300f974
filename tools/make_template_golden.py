#!/usr/bin/env python3
"""Writes tests/golden/chat_templates.json: what transformers' Jinja makes of chat templates.

    tools/make_template_golden.py

Oracle: jinja2 as transformers sets it up for chat templates. Three lists: the templates of
tests/golden/chat_templates (written for these tests, in the manner of the public ones that they are
named after) on ten conversations each; small templates for one feature each; and templates that
have to be refused, where or while they are parsed. An error is null.
"""

import json
import pathlib

import jinja2
from transformers.utils import chat_template_utils

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests/golden"

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Weather now <at> a \"place\".",
        "parameters": {"type": "object", "properties": {
            "place": {"type": "string", "description": "City & country"},
            "days": {"type": "integer"},
            "unit": {"type": "string", "enum": ["c", "f"]},
            "tags": {"type": "array", "items": {"type": "string"}, "nullable": True},
            "more": {"type": ["string", "null"], "default": None}},
            "required": ["place"]}}},
    {"type": "function", "function": {"name": "now", "description": "Zeit – 時間", "parameters": {
        "type": "object", "properties": {}}}},
]
CALL = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "abcdefghi", "type": "function", "function": {
        "name": "get_weather", "arguments": {"place": "Zürich", "days": 2, "x": [1.5, True, None]}}}]}


def conversation(*turns, **more):
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    messages = [{"role": roles[t[0]], "content": t[1]} if isinstance(t, tuple) else t for t in turns]
    return {"messages": messages, "bos_token": "<s>", "eos_token": "</s>",
            "add_generation_prompt": True, **more}


CONVERSATIONS = [
    conversation(("u", "Hi")),
    conversation(("s", "Be brief."), ("u", "One?"), ("a", "Two."), ("u", "Three?")),
    conversation(("u", "  spaces \n\n kept? \n"), ("a", "\n yes \t"), ("u", "ok"),
                 add_generation_prompt=False),
    conversation(("s", ""), ("u", "häßlich 🙂 – 日本語\u00a0\u3000"), ("a", "{{ not a tag }} {% nor %} <b>&amp;")),
    conversation(("u", "Weather?"), CALL, ("t", "12 °C"), ("a", "Mild."), ("u", "And now?"),
                 tools=TOOLS),
    conversation(("s", "Use tools."), ("u", "A"), ("a", "B"), ("u", "C"), tools=TOOLS[:1]),
    conversation(("u", [{"type": "text", "text": "What is"}, {"type": "image", "url": "x"},
                        {"type": "text", "text": " this? "}])),
    conversation(("u", "think"), {"role": "assistant", "content": "<think>\nwell\n</think>\n\nDone.",
                                  "reasoning_content": None}, ("u", "more"), enable_thinking=False),
    conversation(("u", "a"), ("u", "b"), ("a", "c"), ("a", "d")),
    conversation(("s", "S1"), ("u", "it's \"quoted\" \\ back"), CALL | {"content": "wait"},
                 ("t", "[1, 2]"), ("t", "3"), ("a", "end"), add_generation_prompt=False),
]

SMALL = r"""
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 1.5e3 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ 1_000 }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.0 }} {{ "x" 'y' }} {{ 'tab\there' }} {{ '\u00e4\x41\'\"\\' }} {{ 'no\qescape' }}
{{ [1, 'a', none, true, [1.0], {'k': (1,)}] }} {{ (1, 2) }} {{ () }} {{ {} }} {{ {'a': "it's", 'b': 'say "x"', 'c': '\n\t\u200b\x7f'} }}
{{ 1 < 2 < 3 }} {{ 1 == 1.0 }} {{ 'a' in 'abc' }} {{ 2 not in [1, 3] }} {{ 'b' < 'c' }} {{ [1, 2] == [1, 2] }} {{ {'a': 1} == {'a': 1} }} {{ true == 1 }} {{ none == false }}
{{ not true or false and x.y }} {{ 'yes' if 1 else 'no' }} {{ 'x' if false }}| {{ 0 or '' or 'z' }} {{ 1 and 0 }}
{{ missing }}|{{ missing is defined }}|{{ missing is undefined }}|{{ d.nope is defined }}|{{ missing | default('D') }}|{{ '' | default('D') }}|{{ '' | default('D', true) }}|{{ missing == 1 }}|{% for x in missing %}x{% endfor %}|{{ missing|length }}
{{ d.a }} {{ d['a'] }} {{ d.items() | list }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.get('zz', 5) }} {{ d.get('zz') }} {{ d['zz'] is defined }} {{ 'a' in d }} {{ d | length }}
{{ l[0] }} {{ l[-1] }} {{ l[1:] }} {{ l[:-1] }} {{ l[::-1] }} {{ l[::2] }} {{ l[5:] }} {{ l[-100:2] }} {{ l[3:0:-1] }} {{ l[9] is defined }} {{ s[1] }} {{ s[-3:] }} {{ s[::-1] }} {{ l.0 }}
{{ s.upper() }} {{ s.title() }} {{ 'hELLO wORLD' | capitalize }} {{ 'ab-c d' | title }} {{ "they're" | title }} {{ s.replace('é', 'e') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'x'.join(['1', '2']) }} {{ s.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a b  c'.split(' ') }} {{ ' a  b '.split() }} {{ 'a b c d'.split(none, 2) }} {{ 'a,b,c'.rsplit(',', 1) }}
{{ '  x '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xyaxy'.lstrip('yx') }}|{{ 'abc'.rstrip('cb') }}|{{ '\u3000x\u00a0'.strip() }}|{{ ' x ' | trim }}|{{ 'xax' | trim('x') }}
{{ s.startswith('Caf') }} {{ s.endswith(('x', 'fé')) }} {{ s.find('f') }} {{ s.find('zz') }} {{ s.count('a') }} {{ 'abc'.isdigit() }} {{ '12'.isdigit() }} {{ 'Ab'.islower() }} {{ 'ab' is lower }} {{ 'AB' is upper }} {{ 'a\nb\r\nc'.splitlines() }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.py'.removesuffix('.py') }}
{{ d | tojson }} {{ l | tojson }} {{ s | tojson }} {{ s | tojson(ensure_ascii=true) }} {{ '<&>\'"\n\u2028' | tojson }} {{ 1.0 | tojson }} {{ 1e20 | tojson }} {{ d | tojson(indent=2) }} {{ [] | tojson(indent=2) }} {{ [{}, [1]] | tojson(indent=1) }} {{ d | tojson(separators=(',', ':')) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ {1: 2, none: 3, true: 4} | tojson }}
{{ l | join(', ') }} {{ l | join }} {{ [d, d] | map(attribute='a') | join('-') }} {{ l | first }} {{ l | last }} {{ [] | first is defined }} {{ l | reverse | list }} {{ 'abc' | reverse }} {{ l | sum }} {{ l | max }} {{ l | min }} {{ [3, 1, 2] | sort }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A', 'c'] | sort(case_sensitive=true) }} {{ [3, 1] | sort(reverse=true) }} {{ ['a', 'A', 'b'] | unique | list }} {{ d | dictsort }} {{ 'abc' | list }} {{ d | list }}
{{ '42' | int }} {{ '4x' | int }} {{ '4x' | int(-1) }} {{ '3.7' | int }} {{ 3.99 | int }} {{ '0x1f' | int(0, 16) }} {{ '1f' | int(base=16) }} {{ '2.5' | float }} {{ 'z' | float }} {{ -3 | abs }} {{ 2.5 | round }} {{ 3.14159 | round(2) }} {{ 2.1 | round(method='ceil') }} {{ 42 | string + 'x' }} {{ true | int }} {{ 'x' | escape }} {{ '<a href="x">' | e }}
{{ range(3) | list }} {{ range(1, 7, 2) | list }} {{ range(3, 0, -1) | list }} {{ dict(a=1, b='x') }} {{ [1, 2, 3, 4] | select('odd') | list }} {{ [1, 2, 3] | reject('equalto', 2) | list }} {{ [0, 1, ''] | select | list }} {{ [{'x': 1}, {'x': 0}, {}] | selectattr('x') | list }} {{ [{'x': 1}, {'x': 2}] | rejectattr('x', 'eq', 1) | list }} {{ ['a', 'b'] | map('upper') | list }} {{ [{'a': {'b': 5}}] | map(attribute='a.b') | list }} {{ [{}, {'n': 1}] | map(attribute='n', default='-') | list }}
{{ 1 is number }} {{ 1 is integer }} {{ 1.0 is float }} {{ true is integer }} {{ true is boolean }} {{ 'a' is string }} {{ d is mapping }} {{ l is sequence }} {{ 'a' is iterable }} {{ 5 is iterable }} {{ none is none }} {{ 4 is even }} {{ 4 is divisibleby 2 }} {{ 4 is divisibleby(3) }} {{ 1 is in [1, 2] }} {{ 1 is eq 1 }} {{ 1 is not none }} {{ range is callable }} {{ 3 is gt 2 }} {{ 1 is sameas true }}
{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }} {% set ns = namespace(v=0) %}{% for i in [1, 2] %}{% set ns.v = ns.v + i %}{% endfor %}{{ ns.v }} {% if true %}{% set x = 9 %}{% endif %}{{ x }} {% set a, b = 1, 2 %}{{ a }}{{ b }} {% set t = 1, 2 %}{{ t }}
{% for k, v in d.items() %}{{ k }}={{ v }}{% if not loop.last %}, {% endif %}{% endfor %} {% for (k, v) in [(1, 2)] %}{{ k + v }}{% endfor %} {% for x in l if x > 1 %}{{ loop.index }}:{{ x }} {% else %}none{% endfor %} {% for x in [] %}a{% else %}empty{% endfor %} {% for x in 'abc' %}{{ loop.index0 }}{{ x }}{{ loop.first }}{{ loop.revindex0 }} {% endfor %}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x > 4 %}{% break %}{% endif %}{{ x }}{% endfor %} {% for x in l %}{{ loop.previtem | default('^') }}{{ loop.nextitem | default('$') }}{{ loop.changed(x // 2) }} {% endfor %} {% for x in l %}{% for y in [1, 2] %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}
{% macro m(a, b=2, c=a) %}[{{ a }}|{{ b }}|{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m(b=5, a=4) }}{{ m() }} {% macro fact(n) %}{{ n * fact(n - 1) | int if n > 1 else 1 }}{% endmacro %}{{ fact(5) }} {% set g = 'global' %}{% macro see() %}{{ g }}{% endmacro %}{{ see() }}
{% set block %} in {{ 1 + 1 }} {% endset %}[{{ block }}] {% set up | upper | trim %} x {% endset %}[{{ up }}] {% filter upper %}a{{ 'b' }}{% endfilter %} {% filter replace('a', 'b') | upper %}aab{% endfilter %}
{% call(x) wrap() %}<{{ x }}>{% endcall %}{% macro wrap() %}({{ caller(7) }}){% endmacro %}
{% macro wrap() %}({{ caller(7) }}){% endmacro %}{% call(x) wrap() %}<{{ x }}>{% endcall %}
{% raw %}{{ x }} {% if %}{% endraw %}{# comment {{ x }} #}|{#- strip -#} |
{{ joiner('; ')() }}|{% set j = joiner(', ') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %} {% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}
{{ 'a\nb\n\nc' | indent }} {{ 'a\nb' | indent(2, true) }} {{ 'a\n\nb' | indent(1, blank=true) }} {{ 'a\nb' | indent('> ') }}
{{ [1] + [2] }} {{ 'ab' * 3 }} {{ [0] * 2 }} {{ (1,) + (2,) }} {{ 'a' + 'b' }} {{ l | map('string') | join }} {{ -1.5 }} {{ +3 }} {{ --3 }} {{ not 0 }} {{ [[1, 2], [3]] | sum(start=[]) }} {{ [{'n': 2}, {'n': 3}] | sum(attribute='n') }}
{%- set a = {'x': {'y': [1, {'z': 'deep'}]}} -%} {{ a.x.y[1].z }} {{ a['x']['y'][-1]['z'] }} {{ a.x.q is defined }} {{ (a.x.q or {}).r is defined }} {{ a.get('x').get('y') | length }}
  {% if true %}
  indented
    {%- if true %} stripped {%- endif %}

  {% endif %}
after
{%+ if true %} kept {%+ endif +%}
x
{{ 'it' }}
{{- ' joined ' -}}
   y
{% for i in [1, 2] -%}
   {{ i }}
{%- endfor %}

{% macro o(x) %}{% macro i(y) %}{{ x }}-{{ y }}{% endmacro %}{{ i(1) }}{% endmacro %}{{ o('o') }} {% for x in [3, 1] %}{% macro m() %}<{{ x }}>{% endmacro %}{{ m() }}{% endfor %}
{% macro w(c) %}{{ c() }}{% endmacro %}{% set ns = namespace() %}{% macro m() %}{% set ns.c = caller %}{% endmacro %}{% macro z() %}{% set t = 'a text of some length, longer than most' %}{% call m() %}{{ t }}{% endcall %}{% endmacro %}{{ z() }}{{ w(ns.c) }}
{{ dict(d, z=2) }} {{ namespace(d, q=1).q }} {{ dict([('a', 1)]) }} {{ dict(d.items()) == d }} {% if l | select('gt', 9) %}T{% endif %} {% set g = l | map('string') %}{{ g | join(',') }}|{{ g | join(',') }} {% set g = l | select('odd') %}{{ 1 in g }}{{ 1 in g }}
{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}E{% endfor %} {% for x in l %}{% continue %}{% else %}E{% endfor %} {% set y = 0 %}{% for a in [] %}{% else %}{% set y = 1 %}{% endfor %}{{ y }} {% for x in [3, 1] %}{% filter upper %}a{% if x == 1 %}{% break %}{% endif %}b{% endfilter %}{{ x }}{% endfor %} {% for x in [1, 2] %}{% set t %}a{% if x == 1 %}{% continue %}{% endif %}b{% endset %}{{ t }}{{ x }}{% endfor %}
{{ 'a\nb'.splitlines(true) }} {{ 'a\u2028b\x0bc\r\nd\n'.splitlines() }} {{ l | select('>', 1) | list }} {{ l | reject('<=', 2) | list }} {{ [{'o': {'k': 2}}, {'o': {'k': 1}}] | sort(attribute='o.k') }} {{ [{'o': {'k': 2}}, {'o': {'k': 1}}] | sum(attribute='o.k') }} {{ [{'o': {'k': 2}}] | join(',', attribute='o.k') }} {{ [{'o': {'k': 2}}, {'o': {'k': 2}}] | unique(attribute='o.k') | list | length }} {{ [{'c': [{'t': 'x'}]}] | map(attribute='c.0.t') | list }} {{ [[1, 2]] | map(attribute='1') | list }}
{{ 'hello' | replace('l', missing) }} {{ 'hello' | replace('l', none) }} {{ 112 | replace(1, 2) }} {{ d.items() }} {{ d.keys() }} {{ d.values() }} {{ 42 | round }} {{ 1234 | round(-2) }} {{ 2.675 | round(2) }} {{ 1.115 | round(2) }} {{ 0.0005 | round(3) }} {{ 0.15 | round(1) }} {{ 0.35 | round(1) }} {{ strftime_now('[%Z%z]') }}
{% macro m(x=x) %}{{ x is defined }}{% endmacro %}{% set x = 1 %}{{ m() }} {{ [missing] }} {{ {'a': missing} }} {{ 'abc'.replace('', '-', 1) }} {{ 'abc'.replace('', '-', 0) }} {{ 'abc'.replace('', '-') }}[{{ '  a ' | trim('') }}] {{ '+1.5' | float }} {{ '1_000' | int }} {{ 1.5 is odd }} {{ 4.0 is even }} {{ 4 is divisibleby 2.0 }} {{ 1 // 0.1 }}
{% if false %}a{% elif none %}b{% elif 1 %}c{% else %}d{% endif %}{% if [] %}x{% else %}e{% endif %}
""".strip("\n").split("\n")

# Those that span lines.
BLOCKS = [
    "  {% if true %}\n  indented\n    {%- if true %} stripped {%- endif %}\n\n  {% endif %}\nafter\n",
    "{%+ if true %} kept {%+ endif +%}\nx\n",
    "{{ 'it' }}\n{{- ' joined ' -}}\n   y\n",
    "{% for i in [1, 2] -%}\n   {{ i }}\n{%- endfor %}\n\n",
    "a\r\nb\rc\n",
    "x {# c #}\ny\n  {# c #}\n z {#- c -#}\n w",
    "  {{ 1 }}\n\t{% set a = 1 %}\n{{ a }}\n\n",
    "{% raw %}\n {{ x }}\n{% endraw %}\nz",
    "  {%- raw -%}  \n a \n  {%- endraw -%} \n z",
    "{% set x %}\nline\n{% endset %}\n[{{ x }}]",
    "{{ {'a': 1}\n.a }}\n{{ [1,\n 2][0] }}",
    "{% macro m() -%}\n  x\n{%- endmacro %}\n{{ m() }}|\n  {% if 1 %}y{% endif %}  \n",
]

REFUSED = [
    "{{ 1 + }}", "{% if %}x{% endif %}", "{% if 1 %}x", "{{ x", "{% endif %}", "{{ 'a }}", "{% for x %}{% endfor %}",
    "{{ (1, 2 }}", "{% unknown %}", "{{ missing.attribute }}", "{{ missing + 1 }}", "{{ missing() }}", "{{ 1 / 0 }}",
    "{{ 'a' + 1 }}", "{{ [1] < 'a' }}", "{{ 5 | nofilter }}", "{{ 5 is notest }}", "{{ raise_exception('x') }}",
    "{{ l.append(1) }}", "{{ d.update({}) }}", "{{ 'x'.nope() }}", "{% set d.a = 1 %}", "{{ 1(2) }}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{{ none.x.y }}", "{{ {'a': range} | tojson }}", "{{ 1 | length }}",
    "{% for x in 5 %}{% endfor %}", "{% break %}", "{{ 'a' 'b' 1 }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
    "{{ missing | int }}", "{{ missing | indent }}", "{{ l | map('string') | length }}", "{{ l | select('odd') | last }}",
    "{{ (l | select('odd')) + [1] }}", "{{ d.keys() | tojson }}", "{% for x in l %}{% set loop.index = 3 %}{% endfor %}",
    "{{ s.upper(1) }}", "{{ l | length(1) }}", "{{ range(1000000) }}", "{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}",
    "{{ range() }}", "{{ -'a' }}", "{{ '%' ~ }}", "{# open", "{% raw %} open",
]

NAMES = {"d": {"a": 1, "b": [1, 2], "c": {"n": None}}, "l": [1, 2, 3], "s": "Café"}


def render(template, names):
    try:
        compiled = chat_template_utils._compile_jinja_template(template)
        return compiled.render(**json.loads(json.dumps(names)))
    except (jinja2.TemplateError, TypeError, ValueError, ZeroDivisionError, AttributeError, KeyError, SyntaxError,
            OverflowError):
        return None


def main():
    templates = {
        path.stem: [render(path.read_text(), c) for c in CONVERSATIONS]
        for path in sorted((FOLDER / "chat_templates").glob("*.jinja"))
    }
    small = [line for line in SMALL if line.count("{%") + line.count("{{") > 0]
    out = {
        "conversations": CONVERSATIONS,
        "templates": templates,
        "names": NAMES,
        "small": [[text, render(text, NAMES)] for text in small + BLOCKS],
        "refused": REFUSED,
    }
    for text in REFUSED:
        assert render(text, NAMES) is None, text
    path = FOLDER / "chat_templates.json"
    path.write_text(json.dumps(out, ensure_ascii=False, indent=0) + "\n")
    rendered = [text for texts in templates.values() for text in texts]
    print(f"{path}: {len(templates)} templates, {sum(t is None for t in rendered)} of "
          f"{len(rendered)} conversations refused, {len(out['small'])} small ones")


main()
