"""`mailerd dkim new`, and what `mailerd check --connect` says of the record that is published."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from click.testing import CliRunner, Result

from mailerd.bench.port import free_port
from mailerd.cli import main, published
from mailerd.compose.dkim import Key
from mailerd.compose.dkimrecord import record, strings
from mailerd.config.dkim import read_key
from tests.compose.signing import Published, ed25519_key, key_file, rsa_key


def new(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["dkim", "new", *arguments])


# -- new -------------------------------------------------------------------------------------------------------------


def test_a_key_its_record_and_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = new("--domain", "Bücher.example", "--selector", "s1")
    assert (result.exit_code, result.stderr) == (0, "")
    file = tmp_path / "dkim-xn--bcher-kva.example-s1.pem"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = read_key(str(file))
    (line,) = [line for line in result.stdout.splitlines() if "_domainkey" in line]
    assert line.startswith("s1._domainkey.xn--bcher-kva.example. IN TXT ( ")
    pieces = re.findall(r'"([^"]*)"', line)
    assert "".join(pieces) == record(key)
    assert max(map(len, pieces)) <= 255
    # What it says for the configuration can be put there as it is.
    lines = result.stdout[result.stdout.index("[[identity.dkim]]") :].split("\n\n")[0]
    text = f'[[identity]]\nname = "shop"\nfrom = "a@bücher.example"\n{lines}\n[[provider]]\nname = "x"\nkind = "sink"\n'
    (tmp_path / "m.toml").write_text(text)
    checked = CliRunner().invoke(main, ["--config", str(tmp_path / "m.toml"), "check"])
    assert (checked.exit_code, checked.stderr) == (0, "")


def test_the_private_key_is_not_printed(tmp_path: Path) -> None:
    file = tmp_path / "k.pem"
    for as_json in ((), ("--json",)):
        file.unlink(missing_ok=True)
        result = new("--domain", "shop.example", "--out", str(file), *as_json)
        secret = file.read_text().splitlines()[5]
        assert secret not in result.output


def test_ed25519_as_json(tmp_path: Path) -> None:
    result = new("--domain", "shop.example", "--ed25519", "--out", str(tmp_path / "k.pem"), "--json")
    found = json.loads(result.stdout)
    assert found["algorithm"] == "ed25519-sha256"
    assert re.fullmatch(r"mailerd\d{6}e", found["selector"])
    assert found["name"] == f"{found['selector']}._domainkey.shop.example"
    assert found["record"] == record(read_key(found["file"])) == "".join(found["strings"])


def test_a_file_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "k.pem").write_text("mine")
    result = new("--domain", "shop.example", "--ed25519", "--out", str(tmp_path / "k.pem"))
    assert result.exit_code == 1
    assert result.stderr == (
        f"mailerd: {tmp_path}/k.pem exists: it is left as it is, choose another --out or --selector\n"
    )
    assert (tmp_path / "k.pem").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "Missing option '--domain'"),
        (["--domain", "shop"], 2, "--domain shop: must be a domain, as in `example.org`"),
        (["--domain", "../x.example"], 2, "--domain ../x.example: is no host name or address"),
        (["--domain", "192.0.2.1"], 2, "must be a domain"),
        (["--domain", "shop.example", "--selector", "a/b"], 2, "--selector a/b: must be letters"),
        (["--domain", "shop.example", "--selector", "-a"], 2, "--selector -a: must be letters"),
        (["--domain", "shop.example", "--selector", ".".join(["a" * 60] * 4)], 2, "is longer than a name in the DNS"),
        (["--domain", "shop.example", "--ed25519", "--out", "/nowhere/k.pem"], 1, "/nowhere/k.pem: No such file"),
    ],
)
def test_wrong_usage(arguments: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = new(*arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# -- check --connect -------------------------------------------------------------------------------------------------


class Zone(asyncio.DatagramProtocol):
    """TXT records by name, others by `MX name`, each a list of strings; a response code; or silence (None)."""

    records: dict[str, list[list[str]] | int | None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0].name
        kind = dns.rdatatype.to_text(query.question[0].rdtype)
        name = question.to_text(omit_final_dot=True)
        found = self.records.get(name if kind == "TXT" else f"{kind} {name}", int(dns.rcode.NXDOMAIN))
        if found is None:
            return
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if isinstance(found, int):
            answer.set_rcode(dns.rcode.Rcode(found))
        elif found:
            quote = '"{}"' if kind == "TXT" else "{}"
            texts = [" ".join(quote.format(piece) for piece in text) for text in found]
            answer.answer.append(dns.rrset.from_text(question, 60, "IN", kind, *texts))
        self.transport.sendto(answer.to_wire(), addr)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zone]:
    """A name server on loopback, in a thread: the command has an event loop of its own."""
    loop = asyncio.new_event_loop()
    transport, protocol = loop.run_until_complete(loop.create_datagram_endpoint(Zone, local_addr=("127.0.0.1", 0)))
    monkeypatch.setattr(published, "PORT", transport.get_extra_info("sockname")[1])
    monkeypatch.setattr(published, "TIMEOUT", 0.4)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield protocol
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    transport.close()
    loop.run_until_complete(asyncio.sleep(0))  # it closes its socket in the loop's next turn
    loop.close()


KEYS = {"r1": Key("shop.example", "r1", rsa_key()), "e1": Key("shop.example", "e1", ed25519_key())}
DNS = Published(*KEYS.values())


def check(folder: Path, *selectors: str) -> dict[str, Any]:
    """What `check --connect --json` reports; of its findings only those of keys."""
    report = whole_check(folder, *selectors)
    report["warnings"] = [line for line in report["warnings"] if "dkim" in line]
    report["keys"] = {f["subject"]: (f["ok"], f["detail"]) for f in report["checks"] if "dkim" in f["subject"]}
    return report


def whole_check(folder: Path, *selectors: str) -> dict[str, Any]:
    text = f'[database]\nurl = "postgresql://127.0.0.1:{free_port()}/x"\n[groups]\nnameservers = ["127.0.0.1"]\n'
    text += '[[provider]]\nname = "drop"\nkind = "sink"\n[[identity]]\nname = "shop"\nfrom = "a@shop.example"\n'
    for selector in selectors:
        file = key_file(folder, KEYS[selector].private, f"{selector}.pem")
        text += f'[[identity.dkim]]\nselector = "{selector}"\nkey = "{file}"\n'
    (folder / "m.toml").write_text(text)
    env = {name: None for name in os.environ if name.startswith("MAILERD_")}
    result = CliRunner().invoke(main, ["--config", str(folder / "m.toml"), "check", "--connect", "--json"], env=env)
    report = json.loads(result.stdout)
    assert isinstance(report, dict)
    return report


def test_records_that_are_right(zone: Zone, tmp_path: Path) -> None:
    zone.records = {name: [strings(text)] for name, text in DNS.items()}
    report = check(tmp_path, "r1", "e1")
    assert report["warnings"] == []
    assert report["keys"] == {
        "identity.shop.dkim.r1": (True, "r1._domainkey.shop.example is this key's"),
        "identity.shop.dkim.e1": (True, "e1._domainkey.shop.example is this key's"),
    }


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([[record(ed25519_key())]], "its k= says ed25519, the key is rsa"),
        (int(dns.rcode.NXDOMAIN), "no TXT record at r1._domainkey.shop.example; publish: v=DKIM1; k=rsa; p="),
        ([], "no TXT record at r1._domainkey.shop.example; publish: v=DKIM1; k=rsa; p="),
        (int(dns.rcode.SERVFAIL), "no answer for r1._domainkey.shop.example: "),
        (None, "no answer for r1._domainkey.shop.example: nothing within 0.4 s: check the name servers and try again"),
    ],
    ids=["another", "no-name", "no-record", "failure", "silence"],
)
def test_records_that_are_not(zone: Zone, tmp_path: Path, answer: list[list[str]] | int | None, words: str) -> None:
    zone.records = {"r1._domainkey.shop.example": answer}
    ok, detail = check(tmp_path, "r1")["keys"]["identity.shop.dkim.r1"]
    assert not ok
    assert words in detail


def test_what_is_warned_of(zone: Zone, tmp_path: Path) -> None:
    zone.records = {name: [strings(text)] for name, text in DNS.items()}
    (warning,) = check(tmp_path, "e1")["warnings"]
    assert warning == "identity.shop.dkim: only Ed25519 keys, which most receivers do not verify: add an RSA key"
    (tmp_path / "e1.pem").chmod(0o644)
    result = CliRunner().invoke(main, ["--config", str(tmp_path / "m.toml"), "check"])
    assert result.exit_code == 0
    _, warning = result.stderr.splitlines()
    words = f"everybody on this machine may read {tmp_path}/e1.pem (chmod o-r)"
    assert warning == f"mailerd: warning: identity.shop.dkim: {words}"


RIGHT: dict[str, list[list[str]] | int | None] = {
    "shop.example": [["v=spf1 include:relay.example ~all"], ["something-else"]],
    "_dmarc.shop.example": [["v=DMARC1; p=quarantine"]],
    "MX shop.example": [["10 mx.shop.example."]],
}


def domain_records(zone: Zone, folder: Path, **changed: Any) -> tuple[dict[str, tuple[bool, str]], list[str]]:
    """(findings by subject, warnings) of the identity's domain."""
    zone.records = {**RIGHT, **changed}
    report = whole_check(folder)
    found = {f["subject"]: (f["ok"], f["detail"]) for f in report["checks"] if f["subject"].startswith("identity.")}
    return found, report["warnings"]


def test_a_domain_with_all_its_records(zone: Zone, tmp_path: Path) -> None:
    found, warnings = domain_records(zone, tmp_path)
    assert warnings == []
    assert found == {
        "identity.shop.spf": (True, "shop.example has one: v=spf1 include:relay.example ~all"),
        "identity.shop.dmarc": (True, "_dmarc.shop.example has p=quarantine"),
        "identity.shop.mx": (True, "shop.example takes mail at mx.shop.example"),
    }


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"shop.example": []}, "identity.shop.spf: no SPF record at shop.example"),
        ({"_dmarc.shop.example": []}, "identity.shop.dmarc: no DMARC record at _dmarc.shop.example"),
        ({"MX shop.example": []}, "identity.shop.mx: shop.example takes no mail (no MX, no address)"),
        ({"MX shop.example": [["0 ."]]}, "identity.shop.mx: shop.example says that it takes no mail"),
        ({"shop.example": int(dns.rcode.SERVFAIL)}, "identity.shop.spf: no answer for shop.example"),
    ],
    ids=["spf", "dmarc", "mx", "null-mx", "failure"],
)
def test_what_a_domain_lacks_is_warned_of(zone: Zone, tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    _, (warning,) = domain_records(zone, tmp_path, **changed)
    assert warning.startswith(words)


@pytest.mark.parametrize(
    ("changed", "subject", "words"),
    [
        ({"shop.example": [["v=spf1 -all"], ["v=spf1 ~all"]]}, "spf", "2 SPF records at shop.example"),
        ({"shop.example": [["v=spf1 +all"]]}, "spf", "lets everybody send"),
        ({"_dmarc.shop.example": [["v=DMARC1; p=none"], ["v=DMARC1; p=reject"]]}, "dmarc", "2 DMARC records"),
        ({"_dmarc.shop.example": [["v=DMARC1; p=maybe"]]}, "dmarc", "has no valid p="),
    ],
)
def test_what_receivers_cannot_use_is_a_fault(
    zone: Zone, tmp_path: Path, changed: dict[str, Any], subject: str, words: str
) -> None:
    found, _ = domain_records(zone, tmp_path, **changed)
    ok, detail = found[f"identity.shop.{subject}"]
    assert not ok
    assert words in detail


def test_our_own_address_has_a_name_that_leads_back(zone: Zone, tmp_path: Path) -> None:
    from mailerd.cli import domainrecords

    async def ptr() -> Any:
        return await domainrecords._ptr("provider.relay.ptr", "192.0.2.1", ["127.0.0.1"])

    zone.records = {"PTR 1.2.0.192.in-addr.arpa": [["mx.shop.example."]], "A mx.shop.example": [["192.0.2.1"]]}
    assert asyncio.run(ptr()).detail == "192.0.2.1 is mx.shop.example"
    zone.records = {"PTR 1.2.0.192.in-addr.arpa": [["mx.shop.example."]], "A mx.shop.example": [["192.0.2.9"]]}
    assert "does not lead back" in asyncio.run(ptr()).detail
    zone.records = {}
    assert "has no reverse name" in asyncio.run(ptr()).detail
