"""The providers with an HTTP API: what `kind` says, and the dialect that speaks to it. A new one is one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mailerd.config.model import Provider
from mailerd.http.dialect import Dialect
from mailerd.http.resend import Resend
from mailerd.http.ses import Ses

__all__ = ["DIALECTS"]

DIALECTS: Final[dict[str, Callable[[Provider], Dialect]]] = {
    "resend": Resend,
    "ses": Ses,
}
