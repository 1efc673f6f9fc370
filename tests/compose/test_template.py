from __future__ import annotations

from pathlib import Path

import pytest

from mailerd.compose.template import Content, Templates, decode_params
from mailerd.message import Failure


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "welcome/subject.j2": "Welcome, {{ name }}\n",
        "welcome/text.j2": "Hello {{ name }}!\n",
        "welcome/html.j2": "<p>Hello {{ name }}!</p>{% include '_parts/footer.j2' %}\n",
        "welcome/pt/subject.j2": "Bem-vindo, {{ name }}",
        "welcome/pt/html.j2": "<p>Olá {{ name }}</p>",
        "welcome/pt-BR/text.j2": "Oi {{ name }}",
        "_parts/footer.j2": "<i>{{ shop }}</i>",
        "shop/receipt/text.j2": "{% include '_parts/footer.j2' %}",
        "child/html.j2": "{% extends '_parts/base.j2' %}{% block body %}{{ name }}{% endblock %}",
        "_parts/base.j2": "<b>{% block body %}{% endblock %}</b>",
        "empty/subject.j2": "x",
        "broken/text.j2": "one\n{% if %}\n",
        "escape/text.j2": "{% include '../secret' %}",
        "absolute/text.j2": "{% include '/etc/passwd' %}",
        "missing/text.j2": "one\ntwo\n{{ order.total }}",
        "deep/text.j2": "{% include '_parts/bad.j2' %}",
        "_parts/bad.j2": "\n\n{{ nobody }}",
        "lines/subject.j2": "{% set x = 1 %}\n{% if x %}\n  One line\n{% endif %}\n",
    }
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "templates"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "lines/text.j2").write_text("x")
    return root


def render(folder: Path, template: str, locale: str | None = None, **params: object) -> Content:
    return Templates(str(folder), 10_000).file(template, locale, params)


def test_file_template(folder: Path) -> None:
    content = render(folder, "welcome", name="Ann & Co", shop="<Shop>")
    assert content.subject == "Welcome, Ann & Co"
    assert content.text == "Hello Ann & Co!\n"
    assert content.html == "<p>Hello Ann &amp; Co!</p><i>&lt;Shop&gt;</i>\n"
    assert render(folder, "shop/receipt", shop="<Shop>").text == "<i><Shop></i>"  # not escaped: it is a text
    assert render(folder, "child", name="<x>").html == "<b>&lt;x&gt;</b>"
    assert render(folder, "lines").subject == "One line"


@pytest.mark.parametrize(
    ("locale", "subject", "text", "html"),
    [
        (None, "Welcome, A", "Hello A!\n", "<p>Hello A!</p><i>s</i>\n"),
        ("de", "Welcome, A", "Hello A!\n", "<p>Hello A!</p><i>s</i>\n"),
        ("pt", "Bem-vindo, A", None, "<p>Olá A</p>"),
        ("pt-PT", "Bem-vindo, A", None, "<p>Olá A</p>"),
        ("pt-BR", "Bem-vindo, A", "Oi A", None),
        ("PT_br.UTF-8", "Bem-vindo, A", "Oi A", None),
        ("../../secret", "Welcome, A", "Hello A!\n", "<p>Hello A!</p><i>s</i>\n"),
        ("", "Welcome, A", "Hello A!\n", "<p>Hello A!</p><i>s</i>\n"),
    ],
)
def test_locale(folder: Path, locale: str | None, subject: str, text: str | None, html: str | None) -> None:
    assert render(folder, "welcome", locale, name="A", shop="s") == Content(subject, text, html)


def test_own_subject_replaces_the_templates(folder: Path) -> None:
    templates = Templates(str(folder), 10_000)
    content = templates.file("welcome", None, {"name": "A", "shop": "s"}, "Mine, {{ name }}")
    assert content.subject == "Mine, A"


def test_compiled_once_until_reload(folder: Path) -> None:
    templates = Templates(str(folder), 10_000)
    params = {"name": "A", "shop": "s"}
    before = templates.file("welcome", None, params)
    (folder / "welcome/text.j2").write_text("changed")
    assert templates.file("welcome", None, params) == before
    assert Templates(str(folder), 10_000).file("welcome", None, params).text == "changed"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere", "template nowhere: No such file or directory"),
        ("../templates/welcome", "not a template name"),
        ("/etc", "not a template name"),
        ("welcome/subject.j2", "Not a directory"),
        (".hidden", "not a template name"),
        ("a\0b", "not a template name"),
        ("empty", "neither html.j2 nor text.j2"),
        ("broken", "template broken/text.j2, line 2: Expected an expression, got 'end of statement block'"),
        ("escape", "template escape/text.j2, line 1: no file '../secret' in the templates folder"),
        ("absolute", "template absolute/text.j2, line 1: no file '/etc/passwd'"),
        ("missing", "template missing/text.j2, line 3: 'order' is undefined"),
        ("deep", "template _parts/bad.j2, line 3: 'nobody' is undefined"),
    ],
)
def test_failures_say_where(folder: Path, name: str, problem: str) -> None:
    with pytest.raises(Failure) as e:
        render(folder, name)
    assert problem in e.value.reason
    assert e.value.category == "template"


def test_without_a_folder() -> None:
    with pytest.raises(Failure, match=r"template 'x': templates\.path is not configured"):
        Templates(None, 1000).file("x", None, {})


def inline(source: str, column: str = "text_body", **params: object) -> str | None:
    parts = {"subject": None, "text_body": None, "html_body": None, column: source}
    content = Templates(None, 10_000).inline(parts["subject"], parts["text_body"], parts["html_body"], params)
    return {"subject": content.subject, "text_body": content.text, "html_body": content.html}[column]


def test_inline() -> None:
    assert inline("Hi {{ a }}\n", a="<1>") == "Hi <1>\n"
    assert inline("Hi {{ a }}", "html_body", a="<1>") == "Hi &lt;1&gt;"
    assert inline("Hi {{ a|safe }}", "html_body", a="<1>") == "Hi <1>"
    assert inline("no tags, { nor % them }") == "no tags, { nor % them }"
    assert inline("{# gone #}x") == "x"
    assert inline("{{ a.items }} {{ a['keys'] }}", a={"items": 1, "keys": 2}) == "1 2"
    assert inline("{{ a|default('none') }} {{ b is defined }}") == "none False"


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("a\nb {{ first_name }}", "text_body, line 2: 'first_name' is undefined"),
        ("{{ user.name }}", "text_body, line 1: 'dict object' has no attribute 'name'"),
        ("{{ user.name.first }}", "'dict object' has no attribute 'name'"),
        ("{% if first_name %}x{% endif %}", "'first_name' is undefined"),
        ("{% for x in things %}{% endfor %}", "'things' is undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ none + 1 }}", "TypeError"),
        ("{{ x", "text_body, line 1: unexpected end of template"),
        ("{% bogus %}", "unknown tag 'bogus'"),
        ("{{ x|bogus }}", "No filter named 'bogus'"),
        ("{% include 'x' %}", "text_body, line 1: "),
        ("{% for a in [1] %}" * 50 + "{% endfor %}" * 50, "nested too deeply"),
        ("{{ " + "(" * 2000 + ")" * 2000 + " }}", "too deeply"),
        ("{{ " + "-" * 5000 + "1 }}", "too deeply"),
        ("{{ x }}" + " " * 1_100_000, "a template of 1100007 characters"),
        ("{{ [" + "1," * 9_000 + "] }}", "a template of more than 10000 tokens"),
        ("{{ 1 }}" * 9_000, "a template of more than 10000 tokens"),
    ],
)
def test_inline_failures_say_where(source: str, problem: str) -> None:
    with pytest.raises(Failure) as e:
        inline(source, user={})
    assert problem in e.value.reason
    assert e.value.reason.startswith("text_body")
    assert e.value.category == "template"


@pytest.mark.parametrize("value", ["a\nb", "a\r\nBcc: x@example.org", "a\r", "\n"])
def test_params_cannot_break_the_subject(folder: Path, value: str) -> None:
    for source in ("Hi {{ a }}", "{{ a }}"):
        with pytest.raises(Failure, match="subject: a line break would get into the subject") as e:
            inline(source, "subject", a=value)
        assert e.value.category == "header"
    with pytest.raises(Failure, match=r"template welcome/subject\.j2: a line break would get"):
        render(folder, "welcome", name=value, shop="s")


@pytest.mark.parametrize(
    "source", ["[]", '"x"', "1", "null", "{", "", "{'a': 1}", '{"a":' * 5000 + "1" + "}" * 5000, '{"a": "\\ud800"}']
)
def test_params_that_are_no_object(source: str) -> None:
    with pytest.raises(Failure, match="params: not a JSON object") as e:
        decode_params(source)
    assert e.value.category == "params"


def test_params() -> None:
    assert decode_params(None) == {}
    assert decode_params('{"a": [1, 2.5, null, true, {"b": "ü"}]}') == {"a": [1, 2.5, None, True, {"b": "ü"}]}


def test_inline_sources_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailerd.compose.template.CACHE_LIMIT", 1000)
    templates = Templates(None, 10_000)
    for i in range(20):
        source = f"{{{{ x }}}} {i} " + "x" * 90
        for _ in range(2):
            assert (templates.inline(None, source, None, {"x": 1}).text or "").startswith(f"1 {i} ")
        assert sum(len(s) for _, s in templates._sources) <= 1000
    kept = templates._sources[("text_body", source)]
    templates.inline(None, source, None, {"x": 2})
    assert templates._sources[("text_body", source)] is kept
