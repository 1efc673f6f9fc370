"""`mailerd` with the test's own webhook in the place of a provider's: `python -m tests.web.patched --config … run`."""

from __future__ import annotations

from mailerd.cli import main
from mailerd.webhook import kinds
from tests.web.rig import Signed

if __name__ == "__main__":
    kinds.WEBHOOKS["resend"] = lambda provider: Signed()
    main()
