"""[inbound]: what is refused, and how it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailerd.config.inbound import endpoint
from mailerd.config.load import parse
from mailerd.config.problem import ConfigError

IMAP = '[[inbound.imap]]\nname = "box"\nusername = "u"\npassword = "p"\n'
SECRET = '[public]\nsecret = "0123456789abcdef"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lmtp:127.0.0.1:8024", ("lmtp", "127.0.0.1", 8024)),
        ("smtp:[::1]:25", ("smtp", "::1", 25)),
        ("smtp::25", ("smtp", "", 25)),
        ("lmtp:/run/mailerd/lmtp.sock", ("lmtp", "/run/mailerd/lmtp.sock", -1)),
    ],
)
def test_places(text: str, expected: tuple[str, str, int]) -> None:
    assert endpoint(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[inbound]\nlisten = "127.0.0.1:25"', "inbound.listen: `127.0.0.1:25` must say how"),
        ('[inbound]\nlisten = "lmtp:127.0.0.1:25"', "must not be port 25"),
        ('[inbound]\nlisten = "lmtp:off"', "leave `listen` empty"),
        ('[inbound]\nlisten = "lmtp:/' + "x" * 100 + '"', "more than 100 octets"),
        ('[inbound]\nlisten = "smtp:127.0.0.1:25"', "every address would be refused"),
        ('[inbound]\nreturn_path_domain = "b.example"', "needs [public] secret"),
        (SECRET + '[inbound]\nreturn_path_domain = "b@x.example"', "is no domain such as bounces.example.org"),
        ('[inbound]\nmailboxes = ["Bounces <b@x.example>"]', "is no mailbox"),
        ('[inbound]\ntls_cert = "cert.pem"', "inbound.tls_key: must be given"),
        ("[inbound]\nconnections = 0", "must be at least 1"),
        (IMAP + 'host = "imap.example.org"\ntls = "none"', "only to this machine"),
        (IMAP + 'host = "imap.example.org:993"', "the port has its own key"),
        (IMAP + 'host = "imap.example.org"\nfolder = "Zurück"', "must be ASCII"),
        (IMAP + 'host = "a.example"\n' + IMAP + 'host = "b.example"', "another [[inbound.imap]] of this name"),
        ('[[inbound.maildir]]\nafter = "keep"', "path: must be given"),
    ],
)
def test_what_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text, tmp_path / "mailerd.toml", {})
    assert any(words in line for line in refused.value.lines()), refused.value.lines()


def test_the_password_of_a_mailbox_may_come_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    text = IMAP.replace('password = "p"\n', "") + 'host = "imap.example.org"'
    env = {"MAILERD_INBOUND__IMAP__BOX__PASSWORD_FILE": str(tmp_path / "secret")}
    (box,) = parse(text, tmp_path / "mailerd.toml", env).config.inbound.imap
    assert box.password == "s3cret"
