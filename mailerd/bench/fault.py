"""What the sink may do wrong to a message, and the words it does it with. Data; drawing is the sink's business."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["AT_DOT", "REFUSALS", "Kind"]


class Kind(StrEnum):
    """One way to treat a message badly, drawn at its MAIL."""

    MAIL_4XX = "mail-4xx"
    MAIL_421 = "mail-421"  # and the connection is closed
    RCPT_4XX = "rcpt-4xx"
    RCPT_5XX = "rcpt-5xx"
    DOT_4XX = "dot-4xx"
    DOT_5XX = "dot-5xx"
    DOT_421 = "dot-421"  # not accepted, and the connection is closed
    DOT_CLOSE = "dot-close"  # accepted, and the connection is closed without a reply
    SLOW = "slow"  # accepted, a second late


REFUSALS: Final = {
    Kind.MAIL_4XX: b"451 4.3.0 try again later\r\n",
    Kind.MAIL_421: b"421 4.3.2 going down\r\n",
    Kind.RCPT_4XX: b"450 4.2.1 mailbox busy\r\n",
    Kind.RCPT_5XX: b"550 5.1.1 no such user\r\n",
    Kind.DOT_4XX: b"451 4.3.0 try again later\r\n",
    Kind.DOT_5XX: b"554 5.7.1 refused\r\n",
    Kind.DOT_421: b"421 4.3.2 going down\r\n",
}
AT_DOT: Final = frozenset({Kind.DOT_4XX, Kind.DOT_5XX, Kind.DOT_421})
