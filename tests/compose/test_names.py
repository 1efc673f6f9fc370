"""Names held against a schema: what is found, and what must not be."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mailerd.compose.names import missing
from mailerd.compose.sandbox import Sandbox
from mailerd.compose.template import Templates
from mailerd.message import Failure

ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "price": {"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]},
        "note": {"type": "string"},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
    },
    "required": ["name", "price"],
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "$defs": {"item": ITEM, "named": {"properties": {"name": {"type": "string"}}, "required": ["name"]}},
    "properties": {
        "user": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "nick": {"type": "string"}},
            "required": ["name"],
            "additionalProperties": False,
        },
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
        "order": {"type": "object", "properties": {"items": {"type": "array", "items": ITEM}}, "required": ["items"]},
        "note": {"type": "string"},
        "any": {},
        "free": {"type": "object"},
        "open": {"type": "object", "properties": {"a": {}}, "additionalProperties": True, "required": ["a"]},
        "map": {"type": "object", "additionalProperties": {"$ref": "#/$defs/named"}},
        "either": {"anyOf": [{"$ref": "#/$defs/named"}, {"properties": {"title": {"type": "string"}}}]},
        "both": {"allOf": [{"$ref": "#/$defs/named"}, {"properties": {"title": {}}, "required": ["title"]}]},
        "maybe": {"type": ["object", "null"], "properties": {"a": {}}, "required": ["a"]},
        "pair": {"type": "array", "prefixItems": [{"$ref": "#/$defs/named"}, {"$ref": "#/$defs/named"}]},
        "pattern": {"type": "object", "patternProperties": {"^x_": {"$ref": "#/$defs/named"}}, "additionalProperties": False},
        "kind": {"enum": ["a", "b"]},
        "cond": {
            "type": "object",
            "properties": {"type": {}},
            "required": ["type"],
            "if": {"properties": {"type": {"const": "x"}}},
            "then": {"properties": {"x": {}}},
            "else": {"properties": {"y": {}}},
        },
    },
    "required": [
        "user", "items", "order", "any", "free", "open", "map", "either", "both", "maybe", "pair", "pattern", "kind", "cond",
    ],
}  # fmt: skip
_environment = Sandbox(None, 1 << 20, html=True)
KNOWN = {*_environment.globals, "unsubscribe_url"}


def found(source: str, schema: dict[str, Any] | None = None) -> tuple[list[str], list[str]]:
    """Faults and warnings, each by the name it is about."""
    problems = missing(_environment.parse(source), SCHEMA if schema is None else schema, KNOWN)
    return (
        [text.removesuffix(" is not in schema.json") for text, warning in problems if not warning],
        [text.partition(" is optional")[0] for text, warning in problems if warning],
    )


GOOD = [
    "{{ user.name }} {{ user['name'] }} {{ user.name.upper() }} {{ user.name|upper }} {{ user.get('nick') }}",
    "{% for item in items %}{{ loop.index }} {{ item.name }} {{ item.price.amount }}{% endfor %}",
    "{% for item in order.items %}{{ item.name }}{% else %}{{ user.name }}{% endfor %}",
    "{{ items[0].name }} {{ items[-1].price.amount }} {{ (items|first).name }} {{ (items|last).name }}",
    "{% for i in items|sort(attribute='name')|list %}{{ i.name }}{% endfor %}",
    "{% for i in items|selectattr('name')|rejectattr('note', 'defined') %}{{ i.name }}{% endfor %}",
    "{{ items|map(attribute='price.amount')|sum }} {{ items|sum(attribute='price.amount') }} {{ items|join(', ', attribute='name') }}",
    "{% for name, group in items|groupby('name') %}{{ name }}{% for i in group %}{{ i.name }}{% endfor %}{% endfor %}",
    "{% for g in items|groupby('name') %}{{ g.grouper }}{{ g.list }}{% endfor %}",
    "{% for k, v in map.items() %}{{ k }} {{ v.name }}{% endfor %}{% for k, v in map|dictsort %}{{ v.name }}{% endfor %}",
    "{% for k in map %}{{ k.upper() }}{% endfor %}{% for v in map.values() %}{{ v.whatever }}{% endfor %}",
    "{{ any.a.b.c }} {{ free.x }} {{ open.x }} {{ open.a }} {{ map.foo.name if 'foo' in map }}",
    "{{ both.name }} {{ both.title }} {{ maybe.a }} {{ pair[0].name }} {{ kind.upper() }} {{ cond.type }}",
    "{% if note is defined %}{{ note }}{% endif %}{{ note|default('x') }} {{ note|d('') }}",
    "{% if note is defined and note %}{{ note }}{% endif %}{{ note if note is defined else '' }}",
    "{% if note is not defined %}none{% else %}{{ note }}{% endif %}",
    "{% if note is undefined or not note %}none{% elif note %}{{ note }}{% endif %}",
    "{% if not (note is defined) %}x{% else %}{{ note }}{% endif %}",
    "{% if user.nick is defined %}{{ user.nick }}{% endif %}{% if 'nick' in user %}{{ user.nick }}{% endif %}",
    "{% if 'nick' not in user %}x{% else %}{{ user['nick'] }}{% endif %}",
    "{% for i in items %}{% if i.note is defined %}{{ i.note }}{% endif %}{% for j in i['items']|default([]) %}{{ j.price.amount }}{% endfor %}{% endfor %}",
    "{% for i in items if i.note is defined %}{{ i.note }}{% endfor %}",
    "{% for i in items recursive %}{{ i.name }}{% if i['items'] is defined %}{{ loop(i['items']) }}{% endif %}{% endfor %}",
    "{% set total = items|length %}{{ total }}{% set n = namespace(x=0) %}{% set n.x = 1 %}{{ n.x }}",
    "{% set first = items[0] %}{{ first.name }}{% set a, b = pair %}{{ a.name }}",
    "{% set block %}{{ user.name }}{% endset %}{{ block }}{% with x = user %}{{ x.name }}{% endwith %}",
    "{% macro row(item, n=1) %}{{ item.name }}{{ n }}{{ varargs }}{% endmacro %}{% for i in items %}{{ row(i) }}{{ row(item=i) }}{% endfor %}",
    "{% macro box(t) %}{{ t }}{{ caller({'foo': 1}) }}{% endmacro %}{% call(x) box('a') %}{{ x.foo }}{{ user.name }}{% endcall %}",
    "{% macro never(x) %}{{ x.a.b }}{% endmacro %}",
    "{% macro again(x) %}{{ x.name }}{% for y in x['items']|default([]) %}{{ again(y) }}{% endfor %}{% endmacro %}{{ again(items[0]) }}",
    "{{ unsubscribe_url }} {{ range(3)|list }} {{ dict(a=1).a }} {{ cycler('a', 'b').next() }}",
    "{% filter upper %}{{ user.name }}{% endfilter %}{{ 'a' ~ user.name }} {{ user.name == 'x' and user.name in ['y'] }}",
    "{% if undeclared is defined %}{{ undeclared }}{% endif %}{{ undeclared|default('x') }}",
    "{% if 'a' in free %}{{ free.a }}{% endif %}{% raw %}{{ nothing.here }}{% endraw %}",
    "{{ note is none }} {{ note is string and note }}",
    "{% for i in items %}{% if i.items is defined %}{% for j in i.items %}{{ j.name }}{% endfor %}{% endif %}{% endfor %}",
    "{{ map.values()|list|length }} {{ map.items()|list|length }} {{ user.keys()|list }} {{ user.get('nick', '') }}",
    "{{ pattern.x_1.name|default('') if pattern.x_1 is defined }}",
]
BAD = [
    ("{{ nmae }}", ["nmae"]),
    ("{{ nmae.a.b }}", ["nmae"]),
    ("{{ user.values }} {{ user['items'] }}", ["user.values", "user.items"]),
    ("{{ user.nmae }} {{ user['nmae'] }}", ["user.nmae"]),
    ("{{ user.name.first }}", ["user.name.first"]),
    ("{% for item in items %}{{ item.pirce }}{% endfor %}", ["items[].pirce"]),
    ("{% for item in items %}{{ item.price.amuont }}{% endfor %}", ["items[].price.amuont"]),
    ("{% for i in order.items %}{{ i.nme }}{% endfor %}", ["order.items[].nme"]),
    ("{% for i in items %}{% endfor %}{{ i }}", ["i"]),
    ("{% for i in items %}{% set x = i %}{% endfor %}{{ x.name }}", ["x"]),
    ("{{ loop.index }}", ["loop"]),
    ("{{ items[0].nme }} {{ (items|first).nm }} {{ items[0]['n'] }}", ["items[].nme", "items[].nm", "items[].n"]),
    ("{% set f = items[0] %}{{ f.nme }}", ["items[].nme"]),
    ("{% with u = user %}{{ u.nmae }}{% endwith %}{{ u }}", ["user.nmae", "u"]),
    ("{% macro row(i) %}{{ i.nme }}{% endmacro %}{% for x in items %}{{ row(x) }}{% endfor %}", ["items[].nme"]),
    ("{% macro row(i) %}{{ nmae }}{% endmacro %}", ["nmae"]),
    ("{% macro row(a, i=items[0]) %}{{ i.nme }}{% endmacro %}{{ row(1) }}", ["items[].nme"]),
    ("{% macro m() %}{{ x }}{% endmacro %}{% for x in items %}{{ m() }}{% endfor %}", ["x"]),
    ("{{ items|map(attribute='nme')|join }} {{ items|sort(attribute='price.amuont') }}", ["items[].nme", "items[].price.amuont"]),
    ("{{ items|selectattr('nme')|list }} {{ items|groupby('nme2') }}", ["items[].nme", "items[].nme2"]),
    ("{% for n, g in items|groupby('name') %}{{ g[0].nme }}{% endfor %}", ["items[].nme"]),
    ("{% for k, v in map.items() %}{{ v.nmae }}{% endfor %}", ["map[].nmae"]),
    ("{{ map.foo.nmae if map.foo is defined }} {{ both.nmae }} {{ pair[0].nmae }}", ["map.foo.nmae", "both.nmae", "pair[].nmae"]),
    ("{{ pattern.y_1 }} {{ pattern.x_1.nmae if pattern.x_1 is defined }}", ["pattern.y_1", "pattern.x_1.nmae"]),
    ("{{ user.nmae|default('x') }}{% if user.nmea is defined %}{% endif %}", ["user.nmae", "user.nmea"]),
    ("{% if note is defined or x %}{% endif %}", ["x"]),
    ("{{ items.length }} {{ kind.foo }}", ["items.length", "kind.foo"]),
    ("{% call foo() %}{% endcall %}", ["foo"]),
    ("{{ either.nmae }}", ["either.nmae"]),
    ("{{ cond.z }}", ["cond.z"]),
    ("{{ self.x }}{{ nmae() }}", ["self", "nmae"]),
    ("{% if a %}{{ b }}{% elif c %}{{ d }}{% else %}{{ e }}{% endif %}", ["a", "b", "c", "d", "e"]),
]  # fmt: skip
OPTIONAL = [
    ("{{ note }}", ["note"]),
    (
        "{% if note %}{% endif %}",
        ["note"],
    ),  # asking for its truth is not asking whether it is there: rendering is strict
    ("{{ user.nick }}", ["user.nick"]),
    ("{% for i in items %}{{ i.items }}{% endfor %}", ["items[].items"]),
    ("{% for i in items %}{{ i.note }}{% endfor %}", ["items[].note"]),
    ("{% if note is defined %}{% endif %}{{ note }}", ["note"]),
    ("{% if note is defined or user.name %}{{ note }}{% endif %}", ["note"]),
    ("{% if note is not defined %}{{ note }}{% endif %}", ["note"]),
    ("{{ either.name }} {{ either.title }}", ["either.name", "either.title"]),
    ("{{ cond.x }}", ["cond.x"]),
    ("{{ map.bar.name }}", ["map.bar"]),
    ("{% for i in items|selectattr('note') %}{% endfor %}", ["items[].note"]),
    ("{{ user.nick.upper()|default('') }}", ["user.nick"]),
]


@pytest.mark.parametrize("source", GOOD)
def test_nothing_is_found_where_nothing_is_wrong(source: str) -> None:
    assert found(source) == ([], [])


@pytest.mark.parametrize(("source", "names"), BAD)
def test_what_no_message_can_bring(source: str, names: list[str]) -> None:
    faults, _ = found(source)
    assert sorted(faults) == sorted(names)


@pytest.mark.parametrize(("source", "names"), OPTIONAL)
def test_what_a_message_may_leave_out(source: str, names: list[str]) -> None:
    assert found(source) == ([], names)


PARAMS: dict[str, Any] = {
    "user": {"name": "Ann"},
    "items": [{"name": "a", "price": {"amount": 1}}, {"name": "b", "price": {"amount": 2}}],
    "order": {"items": [{"name": "a", "price": {"amount": 1}}]},
    "any": {"a": {"b": {"c": 1}}},
    "free": {"x": 1},
    "open": {"a": 1, "x": 2},
    "map": {"foo": {"name": "n", "whatever": 1}},
    "either": {"name": "x"},
    "both": {"name": "x", "title": "t"},
    "maybe": {"a": 1},
    "pair": [{"name": "x"}, {"name": "y"}],
    "pattern": {},
    "kind": "a",
    "cond": {"type": "x"},
    "unsubscribe_url": "https://e.example/u",
}


def _renders(source: str) -> bool:
    try:
        Templates(None, 100_000).inline(None, source, None, PARAMS)
    except Failure as failure:
        if not re.search("undefined|has no attribute|no element|too deeply", failure.reason):
            raise
        return False
    return True


def test_what_rendering_says_agrees() -> None:
    """The judgement is about rendering: what is good renders with the least that the schema asks for, what is not fails."""
    assert [source for source in GOOD if not _renders(source) and "note is none" not in source] == []
    assert [source for source, _ in OPTIONAL if _renders(source) and "either.name" not in source] == []
    # A name behind a question is never looked at where the answer is no; those are slips all the same.
    quiet = ("is defined", "default(", "endmacro %}", "selectattr", "elif")
    assert [source for source, _ in BAD if _renders(source) and not any(word in source for word in quiet)] == []


def test_a_closed_schema_and_an_open_one() -> None:
    closed = {"properties": {"a": {}}, "required": ["a"], "additionalProperties": False}
    assert found("{{ b|default('') }}", closed) == (["b"], [])
    assert found("{{ b|default('') }}", {"properties": {"a": {}}}) == ([], [])
    assert found("{{ b }}", {"properties": {}, "additionalProperties": True}) == ([], [])


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]},
        {"$ref": "#", "properties": {"a": {"$ref": "#/nowhere"}}, "required": ["a"]},
        {"properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}] * 8, "allOf": [{"$ref": "#/properties/a"}] * 8}}, "required": ["a"]},
        {"properties": {"a": True}, "required": ["a"]},
        {"properties": {"a": {"type": ["object", "array", "null"], "items": {"properties": {"b": {}}}}}, "required": ["a"]},
    ],
)  # fmt: skip
def test_schemas_that_go_round(schema: dict[str, Any]) -> None:
    assert found("{{ a.b.c }}{% for x in a %}{{ x.y }}{% endfor %}", schema)[0] in ([], ["a[].y"])


def test_macros_that_call_each_other_end() -> None:
    body = "".join(f"{{{{ m{j}(x) }}}}" for j in range(10))
    source = "".join(f"{{% macro m{i}(x) %}}{body}{{% endmacro %}}" for i in range(10)) + "{{ m0(user) }}{{ nmae }}"
    assert found(source)[0] == ["nmae"]
