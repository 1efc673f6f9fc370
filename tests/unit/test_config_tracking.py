"""[stream.tracking]: off by default, and refused where nothing could serve it."""

from __future__ import annotations

import pytest

from mailerd.config.load import ConfigError, parse
from mailerd.config.tracking import Tracking

BASE = """
[[provider]]
name = "relay"
host = "smtp.example.org"
[[identity]]
name = "main"
from = "shop@example.org"
[[stream]]
name = "news"
"""
PUBLIC = '[public]\nbase_url = "https://m.example"\nsecret = ["0123456789abcdef"]\n'


def test_nothing_is_tracked_by_default() -> None:
    assert parse(BASE, None, {}).config.stream[0].tracking == Tracking(opens=False, clicks=False, utm=False)


def test_tracking_with_a_public_address() -> None:
    config = parse(BASE + "[stream.tracking]\nopens = true\nclicks = true\n" + PUBLIC, None, {}).config
    assert config.stream[0].tracking == Tracking(opens=True, clicks=True)


@pytest.mark.parametrize("key", ["opens", "clicks"])
def test_tracking_without_a_public_address(key: str) -> None:
    text = BASE + f"[stream.tracking]\n{key} = true\n"
    with pytest.raises(ConfigError) as caught:
        parse(text, None, {})
    (problem,) = caught.value.problems
    assert problem.path.endswith("tracking")
    assert problem.line in (10, 11)
    assert problem.message.startswith("needs [public] base_url and secret: ")
    # What is wrong with [public] itself is said once, there.
    with pytest.raises(ConfigError) as caught:
        parse(text + PUBLIC.replace("secret", "#"), None, {})
    assert [problem.path for problem in caught.value.problems] == ["public.secret"]


def test_utm_parameters_need_no_public_address() -> None:
    assert parse(BASE + "[stream.tracking]\nutm = true\n", None, {}).config.stream[0].tracking.utm
