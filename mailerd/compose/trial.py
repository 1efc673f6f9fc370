"""A version rendered once with its sample params, by the code that renders mail: for a push to measure, for a preview to show.

Pure. What streams add of their own, the link to unsubscribe, is stood in for by a link of the same length that leads nowhere.
"""

from __future__ import annotations

from typing import Any, Final

from mailerd.message import Failure

from .bundle import Edition, Library, Share, Version
from .template import LINK, Content, Templates

__all__ = ["LIMIT", "PLACEHOLDER", "rendered"]

LIMIT: Final = 10_000_000  # characters of one text
PLACEHOLDER: Final = "https://mail.example/u/" + "x" * 60


def rendered(version: Version, tag: str, params: dict[str, Any], one_click: bool) -> Content:
    """The edition `tag` of a version. `one_click`: its stream brings the link to unsubscribe. Raises `Failure`."""
    library = Library()
    edition: Edition = version.editions[tag]
    library.put([Version(version.name, 0, {"": edition}, version.schema)], {version.name: (Share(0, 100.0),)})
    added = LINK if one_click and LINK not in params else ""
    given = {LINK: PLACEHOLDER, **params} if added else params
    # A row brings the subject that a template leaves out.
    subject = "" if edition.subject is None else None
    found = Templates(None, LIMIT, library).stored(version.name, None, given, subject, "", added)
    if found is None:
        raise Failure(f"template {version.name}: cannot be rendered", "template")
    return found[0]
