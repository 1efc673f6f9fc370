"""The load test's mail: the receipt of a shop, 4 kB of HTML and a text part, or the same mail at any other size.

Hazard: sizes are of the rendered HTML and exact to about a paragraph; text part, headers and encoding come on top.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, Final

__all__ = ["PARAMS", "PARAMS_SQL", "rendered", "source", "write_template"]

_END: Final = "\n</table>\n</td></tr>\n</table>\n</body>"
_PARAGRAPH: Final = (
    '\n<tr><td style="padding-top:16px;font-size:14px;line-height:22px;color:#55524b">Notes for the curious, page {page}: '
    "every blanket is woven on a loom from 1911 that has outlived four owners and two roofs. It makes nine metres a day if "
    "the weather is dry and Emil does not sleep on the warp. The wool comes from the marshes behind the dike, is washed in "
    "rain water and dyed with walnut, madder and weld, which is why no two are quite alike and none is quite straight.</td></tr>"
)

PARAMS: Final[dict[str, Any]] = {
    "name": "Ann 12345",
    "order": "A-0012345",
    "total": "187.40",
    "address": "Market Row 12, 10115 Berlin",
    "lines": [
        {"title": "Blanket Linden", "note": "grey, 140 × 200 cm", "count": 1, "price": "129.00"},
        {"title": "Board Fjord", "note": "oiled oak", "count": 2, "price": "58.40"},
    ],
}

PARAMS_SQL: Final = f"""jsonb_build_object(
  'name', 'Ann ' || i, 'order', 'A-' || lpad(i::text, 7, '0'), 'total', '187.40',
  'address', 'Market Row ' || i % 100 || ', 10115 Berlin', 'lines', '{json.dumps(PARAMS["lines"])}'::jsonb)"""


def source(name: str, part: str) -> str:
    """A template of this package: NAME/PART.j2."""
    return resources.files("mailerd.bench").joinpath("templates", name, f"{part}.j2").read_text("utf-8")


def _html(size: int) -> str:
    html = source("receipt", "html")
    usual = 4096
    if size > usual:
        count = round((size - usual) / len(_PARAGRAPH.format(page=1).encode()))
        more = "".join(_PARAGRAPH.format(page=page) for page in range(1, count + 1))
        html = html.replace(_END, more + _END)
    elif size < usual - 100:
        html = "<!DOCTYPE html>\n<title>Your order {{ order }}</title>\n<p>Hello {{ name }}, it is on its way.</p>\n"
        html += f"<p>{'Wool keeps best when it is aired. ' * ((size - len(html)) // 34)}</p>\n"
    return html


def write_template(folder: Path, size: int) -> None:
    """Puts the receipt into `folder` as a file template; its HTML grows or shrinks to about `size` octets."""
    folder.mkdir()
    (folder / "html.j2").write_text(_html(size), "utf-8")
    for part in ("subject", "text"):
        (folder / f"{part}.j2").write_text(source("receipt", part), "utf-8")


def rendered(size: int) -> tuple[str, str, str]:
    """Subject, text and HTML of one such mail, for rows that carry their content."""
    import jinja2

    made = [
        jinja2.Template(text, autoescape=part == "html").render(PARAMS).strip()
        for part, text in (
            ("subject", source("receipt", "subject")),
            ("text", source("receipt", "text")),
            ("html", _html(size)),
        )
    ]
    return made[0], made[1], made[2]
