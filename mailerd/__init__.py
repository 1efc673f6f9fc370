"""mailerd: the mail sender behind high-traffic sites."""

__version__ = "0.1.0"
