"""What a scenario needs and this machine has not."""

from __future__ import annotations

__all__ = ["NotHere"]


class NotHere(Exception):
    """The text says what is missing, and how to get it."""
