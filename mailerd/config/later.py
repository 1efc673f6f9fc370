"""What the file will be able to say, and this version does not do yet.

A limit that is accepted and not kept is worse than none, so these keys are refused, by name. Whoever builds one takes
its line out here and adds the key to the model.
"""

from __future__ import annotations

__all__ = ["LATER", "LATER_CHOICES"]

# Key path without the table's name or number -> what the operator should know.
LATER: dict[str, str] = {}

# Key path -> values of a choice that are reserved.
LATER_CHOICES: dict[str, tuple[str, ...]] = {
    "provider.kind": ("mx",),
}
