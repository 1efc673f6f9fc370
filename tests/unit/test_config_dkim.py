"""Keys in the configuration: what cannot sign is refused with its file and line; where a key may come from."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mailerd.compose.dkim import keys_of
from mailerd.config.dkim import aligned, read_key, write_key
from mailerd.config.load import ConfigError, Loaded, parse
from mailerd.message import Failure
from tests.compose.signing import ed25519_key, key_file, rsa_key

IDENTITY = '[[identity]]\nname = "shop"\nfrom = "Shop <hello@mail.shop.example>"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    key_file(tmp_path, rsa_key(), "rsa.pem")
    key_file(tmp_path, ed25519_key(), "ed.pem")
    return tmp_path


def table(**values: str) -> str:
    return "[[identity.dkim]]\n" + "".join(f'{name} = "{value}"\n' for name, value in values.items())


def good(folder: Path, text: str, env: dict[str, str] | None = None) -> Loaded:
    return parse(text, folder / "m.toml", env or {})


def problems(folder: Path, text: str, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        good(folder, text, env)
    return [line.replace(f"{folder}/m.toml:", "").replace(str(folder), "") for line in caught.value.lines()]


def test_keys_of_an_identity(folder: Path) -> None:
    text = IDENTITY + table(selector="a", key="rsa.pem") + table(selector="b.c", key="ed.pem", domain="Shop.example.")
    loaded = good(folder, text)
    identity = loaded.config.identity[0]
    assert [(dkim.selector, dkim.key) for dkim in identity.dkim] == [
        ("a", f"{folder}/rsa.pem"),
        ("b.c", f"{folder}/ed.pem"),
    ]
    assert [(key.domain, key.selector, key.algorithm) for key in keys_of(identity)] == [
        ("mail.shop.example", "a", "rsa-sha256"),
        ("shop.example", "b.c", "ed25519-sha256"),
    ]
    assert loaded.origins["identity.shop.dkim[1].domain"] == f"{folder}/m.toml:10"


def test_a_domain_that_is_not_ascii(folder: Path) -> None:
    text = IDENTITY.replace("mail.shop", "bücher") + table(selector="a", key="rsa.pem", domain="Bücher.example")
    assert keys_of(good(folder, text).config.identity[0])[0].domain == "xn--bcher-kva.example"
    text = IDENTITY.replace("mail.shop", "bücher") + table(selector="a", key="rsa.pem")
    assert keys_of(good(folder, text).config.identity[0])[0].domain == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("dkim", "expected"),
    [
        ({"selector": "a"}, "4: identity.shop.dkim[0].key: must be given, or be the systemd credential identity.shop.dkim.a.key"),
        ({"selector": "a", "key": ""}, "6: identity.shop.dkim[0].key: must not be empty"),
        ({"key": "rsa.pem"}, "4: identity.shop.dkim[0].selector: must be given"),
        ({"selector": "a_b", "key": "rsa.pem"}, "5: identity.shop.dkim[0].selector: must be letters, digits, `-` and `.`, as in a host name"),
        ({"selector": "a", "key": "no.pem"}, "6: identity.shop.dkim[0].key: /no.pem: No such file or directory"),
        ({"selector": "a", "key": "."}, "6: identity.shop.dkim[0].key: : Is a directory"),
        ({"selector": "a", "key": "rsa.pem", "domain": "other.example"}, "4: identity.shop.dkim: no key is of mail.shop.example, the domain of `from`, or of one above it"),
        ({"selector": "a", "key": "rsa.pem", "domain": "op.example"}, "4: identity.shop.dkim: no key is of mail.shop.example, the domain of `from`, or of one above it"),
        ({"selector": "a", "key": "rsa.pem", "domain": "x.mail.shop.example"}, "4: identity.shop.dkim: no key is of mail.shop.example, the domain of `from`, or of one above it"),
        ({"selector": "a", "key": "rsa.pem", "domain": "example"}, "7: identity.shop.dkim[0].domain: must be a domain, as in `example.org`"),
        ({"selector": "a", "key": "rsa.pem", "domain": "a b"}, "7: identity.shop.dkim[0].domain: is no host name or address"),
        ({"selector": "a", "key": "rsa.pem", "doman": "x"}, "7: identity.shop.dkim[0].doman: unknown key; did you mean `domain`?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(folder: Path, dkim: dict[str, str], expected: str) -> None:
    assert problems(folder, IDENTITY + table(**dkim)) == [expected]


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        ("a@[192.0.2.1]", "5: identity.shop.dkim[0].domain: must be given: `from` has none that could be"),
        ("a@192.0.2.1", "5: identity.shop.dkim[0].domain: must be given: `from` has none that could be"),
        ("a@localhost", "5: identity.shop.dkim[0].domain: must be given: `from` has none that could be"),
        ("nobody", "3: identity.shop.from: is no mailbox: write `shop@example.org` or `Shop <shop@example.org>`"),
    ],
)
def test_a_from_that_cannot_be_signed(folder: Path, sender: str, expected: str) -> None:
    text = f'[[identity]]\nname = "shop"\nfrom = "{sender}"\n\n' + table(selector="a", key="rsa.pem")
    assert problems(folder, text) == [expected]


def test_two_keys_of_a_kind(folder: Path) -> None:
    text = IDENTITY + table(selector="a", key="rsa.pem") + table(selector="b", key="rsa.pem")
    assert problems(folder, text) == [
        "7: identity.shop.dkim[1]: there is another rsa-sha256 key for mail.shop.example (line 4): one may sign"
    ]


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    protection = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


def _public() -> bytes:
    return rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _whole() -> bytes:
    return rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("pem", "words"),
    [
        (lambda: _pem(rsa.generate_private_key(65537, 1024)), "is an RSA key of 1024 bits: receivers want 2048 or more"),
        (lambda: _pem(ec.generate_private_key(ec.SECP256R1())), "is neither an RSA nor an Ed25519 key"),
        (lambda: _pem(ec.generate_private_key(ec.SECP256R1()), b"x"), "is protected by a passphrase, which nobody would be there to type"),
        (_public, "holds no private key; the public one belongs into the DNS"),
        (lambda: _whole()[:800], "holds no key that can be read (is it cut off?)"),
        (lambda: _whole()[:800] + b"\n-----END PRIVATE KEY-----\n", "holds no key that can be read (is it cut off?)"),
        (lambda: b"", "holds no PEM key: `mailerd dkim new` makes one"),
        (lambda: b"\0" * 100, "holds no PEM key: `mailerd dkim new` makes one"),
        (lambda: b"x" * 70_000, "is larger than 64 kB: it is no key"),
    ],
    ids=["small", "curve", "passphrase", "public", "cut", "cut-inside", "empty", "binary", "large"],
)  # fmt: skip
def test_a_key_that_cannot_sign(folder: Path, pem: Callable[[], bytes], words: str) -> None:
    (folder / "bad.pem").write_bytes(pem())
    text = IDENTITY + table(selector="a", key="bad.pem")
    assert problems(folder, text) == [f"6: identity.shop.dkim[0].key: /bad.pem {words}"]


def test_a_key_that_went_bad_since(folder: Path) -> None:
    identity = good(folder, IDENTITY + table(selector="a", key="rsa.pem")).config.identity[0]
    (folder / "rsa.pem").write_text("")
    with pytest.raises(Failure, match=r"identity shop: dkim a: .*/rsa\.pem holds no PEM key") as caught:
        keys_of(identity)
    assert caught.value.category == "configuration"


def test_a_key_from_a_credential(folder: Path) -> None:
    (folder / "credentials").mkdir()
    env = {"CREDENTIALS_DIRECTORY": str(folder / "credentials")}
    key_file(folder / "credentials", rsa_key(), "identity.shop.dkim.a.key")
    text = IDENTITY + table(selector="a")
    loaded = good(folder, text, env)
    assert loaded.config.identity[0].dkim[0].key == f"{folder}/credentials/identity.shop.dkim.a.key"
    assert loaded.origins["identity.shop.dkim[0].key"] == "credential"
    assert keys_of(loaded.config.identity[0])[0].algorithm == "rsa-sha256"
    # It goes before what the file says; one that belongs to nothing is a slip.
    both = good(folder, IDENTITY + table(selector="a", key="no.pem"), env)
    assert both.config.identity[0].dkim == loaded.config.identity[0].dkim
    assert problems(folder, IDENTITY + table(selector="b"), env) == [
        "4: identity.shop.dkim[0].key: must be given, or be the systemd credential identity.shop.dkim.b.key",
        "credential identity.shop.dkim.a.key: belongs to no key; did you mean `identity.shop.dkim.b.key`?",
    ]


def test_a_bad_key_in_a_credential(folder: Path) -> None:
    (folder / "identity.shop.dkim.a.key").write_text("secret words")
    (line,) = problems(folder, IDENTITY + table(selector="a"), {"CREDENTIALS_DIRECTORY": str(folder)})
    assert line.endswith("holds no PEM key: `mailerd dkim new` makes one (from credential)")
    assert "secret" not in line


@pytest.mark.parametrize("dkim", ["dkim = 3\n", 'dkim = ["a"]\n', "dkim = [[]]\n"])
def test_tables_that_are_none(folder: Path, dkim: str) -> None:
    expected = ["4: identity.shop.dkim: there may be several: write [[dkim]], with double brackets"]
    assert problems(folder, IDENTITY + dkim, {"CREDENTIALS_DIRECTORY": str(folder)}) == expected


def test_a_stream_that_requires_what_its_identity_cannot_do(folder: Path) -> None:
    stream = '[[stream]]\nname = "s"\nrequire_dkim = true\n'
    where = "stream.s.require_dkim"
    assert problems(folder, stream) == [
        f"3: {where}: there is no identity with a [[identity.dkim]] key: its mail could not be sent"
    ]
    words = "identity `shop` has no [[identity.dkim]] key: its mail could not be sent"
    assert problems(folder, stream + IDENTITY) == [f"3: {where}: {words}"]
    other = '[[identity]]\nname = "other"\nfrom = "a@shop.example"\n'
    signing = IDENTITY + table(selector="a", key="rsa.pem")
    assert problems(folder, f'{stream}identity = "shop"\n{other}{IDENTITY}') == [f"3: {where}: {words}"]
    assert problems(folder, f'{stream}identity = "shpo"\n{signing}') == [
        "4: stream.s.identity: there is no [[identity]] `shpo`; did you mean `shop`?"
    ]
    assert good(folder, stream + signing).config.stream[0].require_dkim


def test_a_written_key_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_key(tmp_path / "k.pem", ed25519_key())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "k.pem").stat().st_mode) == 0o600
    assert read_key(str(tmp_path / "k.pem")).public_key() == ed25519_key().public_key()
    with pytest.raises(FileExistsError):
        write_key(tmp_path / "k.pem", rsa_key())


def test_alignment() -> None:
    assert aligned("shop.example", "shop.example")
    assert aligned("shop.example", "a.b.shop.example")
    assert not aligned("shop.example", "anothershop.example")
    assert not aligned("a.shop.example", "shop.example")
