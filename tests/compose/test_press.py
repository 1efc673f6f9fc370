"""From a folder to a version: what is resolved, what is refused, and with which words."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from mailerd.compose.bundle import Edition, Library, Share, Version
from mailerd.compose.press import press, templates_in
from mailerd.compose.template import Templates
from mailerd.message import Failure

EXAMPLES = Path(str(resources.files("mailerd.examples").joinpath("templates")))


def write(root: Path, **files: str) -> Path:
    base = {"t/subject.j2": "Hi", "t/html.j2": "<p>x</p>", "t/text.j2": "x"}
    for name, text in (base | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def faults(root: Path) -> list[str]:
    return [p.text for p in press(root, "t").problems if not p.warning]


def render(root: Path, params: dict[str, object], locale: str | None = None, name: str = "t") -> tuple[str, str, str]:
    library = Library()
    pressed = press(root, name)
    assert [p for p in pressed.problems if not p.warning] == []
    library.put([pressed.version], {name: (Share(0, 100.0),)})
    found = Templates(None, 1_000_000, library).stored(name, locale, params, None, "a@example.org")
    assert found is not None
    return found[0].subject or "", found[0].html or "", found[0].text or ""


@pytest.mark.parametrize("name", ["welcome", "receipt", "password-reset", "digest", "newsletter"])
def test_the_examples_have_no_fault_and_render(name: str) -> None:
    assert templates_in(EXAMPLES) == ["digest", "newsletter", "password-reset", "receipt", "welcome"]
    pressed = press(EXAMPLES, name)
    assert pressed.problems == []
    subject, html, text = render(EXAMPLES, pressed.meta.sample, name=name)
    assert subject
    assert text
    assert 'style="' in html
    assert "prefers-color-scheme: dark" in html
    assert html.count("</html>") == 1
    assert "jx" not in html.replace("jxx", "")


def test_layouts_partials_super_and_macros_become_one_source(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "_l/base.html": "<html><body>{% block a %}base {% include '_l/p.html' %}{% endblock %}|{% block b %}B{% endblock %}</body></html>",
            "_l/mid.html": "{% extends '_l/base.html' %}{% block a %}mid({{ super() }}){% endblock %}",
            "_l/p.html": "part {{ n }}",
            "_l/m.html": "{% macro m(x) %}<b>{{ x }}</b>{% endmacro %}",
            "t/html.j2": "{% extends '_l/mid.html' %}{% from '_l/m.html' import m %}{% block a %}<i>{{ super() }}</i>{{ m(n) }}{% endblock %}",
        },
    )
    _, html, _ = render(tmp_path, {"n": "<1>"})
    assert "<i>mid(base part &lt;1&gt;)</i><b>&lt;1&gt;</b>|B" in html
    assert set(press(tmp_path, "t").files) >= {"_l/base.html", "_l/mid.html", "_l/p.html", "_l/m.html", "t/html.j2"}


def test_styles_are_inlined_around_jinja(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "t/html.j2": "<html><head><style>.a{color:red}</style></head><body><table>{% for i in items %}"
            '<tr><td class="a" {% if i > 1 %}id="x"{% endif %}><a href="{{ url }}?a={{ i }}">{{ i }}</a></td></tr>{% endfor %}</table></body></html>'
        },
    )
    _, html, _ = render(tmp_path, {"items": [1, 2], "url": "https://e.example"})
    assert html.count("color: red") == 2
    assert html.count('id="x"') == 1
    assert 'href="https://e.example?a=2"' in html


def test_mjml_becomes_html(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "t/body.mjml": "<mjml><mj-body><mj-section><mj-column>{% for i in n %}<mj-text>No {{ i }}</mj-text>{% endfor %}</mj-column></mj-section></mj-body></mjml>"
        },
    )
    (tmp_path / "t/html.j2").unlink()
    _, html, _ = render(tmp_path, {"n": [1, 2]})
    assert "No 1" in html
    assert "No 2" in html
    assert "mj-text" not in html


def test_languages_fall_back(tmp_path: Path) -> None:
    write(tmp_path, **{"t/pt/html.j2": "<p>pt</p>", "t/pt/text.j2": "pt", "t/pt-BR/subject.j2": "Oi"})
    assert render(tmp_path, {}, "pt_BR") == ("Oi", "<p>pt</p>", "pt")
    assert render(tmp_path, {}, "pt-PT") == ("Hi", "<p>pt</p>", "pt")
    assert render(tmp_path, {}, "de") == ("Hi", "<p>x</p>", "x")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"t/html.j2": "a\n<p>{{ x } }</p>"}, "t/html.j2, line 2, column"),
        ({"t/html.j2": "{% include x %}"}, "t/html.j2, line 1: include cannot be resolved"),
        ({"t/html.j2": "{% include '../../etc/passwd' %}"}, "outside the templates folder"),
        ({"t/html.j2": "{% extends 't/html.j2' %}"}, "name each other"),
        ({"t/html.j2": '<img src="https://e.example/a.png">'}, "img without alt"),
        ({"t/html.j2": '<a href="htps:/x">x</a>'}, "broken link: href='htps:/x'"),
        ({"t/html.j2": "<p>" + "x" * 105_000}, "Gmail clips at"),
        ({"t/html.j2": "<html><body>jx0x</body></html>"}, "jx0x is a word that the press needs"),
        ({"t/meta.toml": "marketing = true"}, "no unsubscribe link in the html"),
        ({"t/schema.json": '{"properties":{"a":{}}}', "t/html.j2": "{{ b }}"}, "b is not in schema.json"),
        (
            {"t/schema.json": '{"properties":{"u":{"properties":{"name":{}}}}}', "t/html.j2": "{{ u.nmae }}"},
            "u.nmae is not in schema.json",
        ),
        (
            {"t/schema.json": '{"properties":{"a":{"type":"string"}}}', "t/meta.toml": "[sample]\na = 1"},
            "sample: params.a: 1 is not of type",
        ),
    ],
)
def test_faults_have_their_own_words(tmp_path: Path, files: dict[str, str], words: str) -> None:
    assert any(words in fault for fault in faults(write(tmp_path, **files)))


def test_a_schema_reads_neither_files_nor_network(tmp_path: Path) -> None:
    write(tmp_path, **{"t/schema.json": '{"properties":{"a":{"$ref":"file:///etc/hostname"}}}'})
    with pytest.raises(Failure, match=r"schema\.json"):
        press(tmp_path, "t")


def test_params_that_violate_the_schema_name_the_path() -> None:
    schema = {"properties": {"items": {"items": {"properties": {"price": {"type": "number"}}}}}}
    version = Version("t", 1, {"": Edition(text="x")}, schema)
    version.check({"items": [{"price": 1}]})
    with pytest.raises(Failure, match=r"params\.items\[1\]\.price: .*number") as caught:
        version.check({"items": [{"price": 1}, {"price": "x"}]})
    assert caught.value.category == "params"


def test_shares_divide_recipients_and_keep_them() -> None:
    library = Library()
    versions = [Version("t", n, {"": Edition(text=str(n))}) for n in (1, 2)]
    people = [f"u{i}@example.org" for i in range(4000)]

    def chosen(percent: float) -> set[str]:
        library.put(versions, {"t": (Share(2, percent, "b"), Share(1, 100 - percent, "a"))})
        return {p for p in people if (library.find("t", p) or ("", ""))[1] == "t@2 b"}

    ten, thirty = chosen(10), chosen(30)
    assert 300 < len(ten) < 500
    assert 1080 < len(thirty) < 1320
    assert ten < thirty
    assert library.find("t@1", people[0]) == (versions[0], "t@1")
    assert library.find("t@3", people[0]) is None
