"""Rspamd, with its local rules alone, finds no fault in how our messages are made, and a DNS of ours proves their signatures.

Loaded are its rules about headers, MIME, HTML, characters and types of attachments, and nothing that asks the network. So
each rule that scores against a message is about how it is made.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import dns.message
import dns.rcode
import dns.rrset
import msgspec
import pytest

from mailerd.bench.port import free_port
from mailerd.compose.dkim import Key
from mailerd.config.model import Config, Dkim
from tests.compose.signing import Published, ed25519_key, key_file, rsa_key
from tests.compose.test_spamassassin import CONFIG, RECEIVED, messages
from tests.daemon.harness import until

pytestmark = [
    pytest.mark.debian,
    pytest.mark.skipif(shutil.which("rspamd") is None, reason="needs Debian's rspamd"),
]
# Without compiled expressions and with few top-level domains it starts in half a second.
CONFIGURATION = """
options {{
  pidfile = "{folder}/pid"; tempdir = "{folder}"; control_socket = "{folder}/control mode=0600"; cache_file = "{folder}/cache";
  hs_cache_dir = "{folder}/"; disable_hyperscan = true; url_tld = "{folder}/tld"; local_addrs = [];
  filters = "chartable,dkim,regexp";
  dns {{ nameserver = ["127.0.0.1:{dns}"]; sockets = 1; timeout = 1s; retransmits = 1; }}
}}
logging {{ type = "file"; filename = "{folder}/log"; level = "warning"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; mime = true; }}
worker "hs_helper" {{ count = 0; }}
lua = "/usr/share/rspamd/rules/rspamd.lua";
modules {{ path = "/usr/share/rspamd/plugins/mime_types.lua"; }}
chartable {{}}
regexp {{}}
dkim {{ trusted_only = false; }}
mime_types {{
  file = ["/etc/rspamd/maps.d/mime_types.inc"];
  extension_map = {{ html = "text/html"; txt = ["text/plain"]; pdf = ["application/pdf"]; }}
}}
"""
# A preheader is hidden on purpose; and the picture that counts opens makes the number of URLs odd, since the text has none.
MEANT = {"MANY_INVISIBLE_PARTS", "URI_COUNT_ODD"}
BROKEN = b"""\
From: a@shop.example.org
To: ann@example.com, ann@example.com
Subject: =?utf-8?q?not quite?=
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="there"

--here
Content-Type: text/html

<p>no text, no end
""".replace(b"\n", b"\r\n")


class Zone(asyncio.DatagramProtocol):
    """Answers for keys that are published."""

    def __init__(self, published: Published) -> None:
        self.published = published
        self.asked: set[str] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name
        text = self.published.get(name.to_text(omit_final_dot=True))
        self.asked.add(name.to_text(omit_final_dot=True))
        answer = dns.message.make_response(query)
        if text is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        else:
            words = " ".join(f'"{text[i : i + 255]}"' for i in range(0, len(text), 255))
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", words))
        self.transport.sendto(answer.to_wire(), addr)


class Rspamd:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def up(self) -> bool:
        try:
            return b"pong" in urllib.request.urlopen(f"{self._url}/ping", timeout=5).read()
        except OSError:
            return False

    def judge(self, content: bytes) -> dict[str, Any]:
        """Its symbols."""
        request = urllib.request.Request(f"{self._url}/checkv2", data=content)
        with urllib.request.urlopen(request, timeout=10) as answer:
            symbols = json.load(answer)["symbols"]
        assert isinstance(symbols, dict)
        return symbols


@asynccontextmanager
async def rspamd(dns_port: int) -> AsyncIterator[Rspamd]:
    program, port = shutil.which("rspamd"), free_port()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="mailerd-rspamd-") as folder:
        place = Path(folder)
        (place / "tld").write_text("com\norg\nexample\n")
        (place / "conf").write_text(CONFIGURATION.format(folder=folder, port=port, dns=dns_port))
        user: list[str] = []
        if os.geteuid() == 0:
            owner = pwd.getpwnam("_rspamd")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            user = ["-u", "_rspamd", "-g", "_rspamd"]
        process = await asyncio.create_subprocess_exec(
            program, "-f", *user, "-c", f"{folder}/conf", stderr=asyncio.subprocess.DEVNULL
        )
        it = Rspamd(port)
        try:
            await until(lambda: asyncio.to_thread(it.up), "answering")
            yield it
        except BaseException:
            print((place / "log").read_text() if (place / "log").exists() else "no log")
            raise
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), 20)


def against(symbols: dict[str, Any]) -> set[str]:
    return {name for name, symbol in symbols.items() if symbol["score"] > 0}


async def test_no_rule_hits_and_signatures_hold(tmp_path: Path) -> None:
    keys = (Key("shop.example.org", "r1", rsa_key()), Key("shop.example.org", "e1", ed25519_key()))
    files = {key.selector: str(key_file(tmp_path, key.private, f"{key.selector}.pem")) for key in keys}
    identity = msgspec.structs.replace(
        CONFIG.identity[0], dkim=tuple(Dkim(selector=selector, key=file) for selector, file in files.items())
    )
    signed: Config = msgspec.structs.replace(CONFIG, identity=(identity,))
    made = messages(signed, created_at=datetime.now(UTC))
    assert len(made) == 7
    published = Published(*keys)
    transport, zone = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Zone(published), local_addr=("127.0.0.1", 0)
    )
    async with rspamd(transport.get_extra_info("sockname")[1]) as judge:
        for name, content in made.items():
            symbols = await asyncio.to_thread(judge.judge, RECEIVED + content)
            assert against(symbols) <= MEANT, f"{name}: {against(symbols) - MEANT}"
            assert sorted(symbols["R_DKIM_ALLOW"]["options"]) == ["shop.example.org:s=e1", "shop.example.org:s=r1"]
        changed = await asyncio.to_thread(judge.judge, RECEIVED + content[:-4] + b"!" + content[-4:])
        assert "R_DKIM_REJECT" in changed
        assert "R_DKIM_ALLOW" not in changed
        broken = against(await asyncio.to_thread(judge.judge, RECEIVED + BROKEN))
        assert broken >= {"MISSING_MID", "MISSING_DATE", "MIME_HTML_ONLY", "MIME_MA_MISSING_TEXT", "SUBJ_EXCESS_QP"}
    transport.close()
    assert zone.asked == set(published), "nothing else was asked"
