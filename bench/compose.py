"""What it costs to compose a message: 4 kB of HTML and a text part from a file template with a layout, unsigned.

Composes in this process, with nothing to send to: `python bench/compose.py`. Beside it the same with tracking on (three links
and a picture in the HTML, a link in the text), and the standard library's EmailMessage with the same content, already rendered.
Microseconds of CPU a message, the best of several rounds, each over messages that are all different.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

from mailerd.bench.template import PARAMS, write_template
from mailerd.compose.composer import Composer
from mailerd.compose.template import Templates, decode_params
from mailerd.config import model
from mailerd.config.public import Public
from mailerd.config.tracking import Tracking
from mailerd.message import Job, Lease

BEGIN = datetime(2026, 11, 5, 10, 20, 30, 123456, UTC)


def write(folder: Path, size: int) -> None:
    """The load test's receipt, cut into a layout and what it holds."""
    write_template(folder / "receipt", size)
    file = folder / "receipt" / "html.j2"
    head, tag, rest = file.read_text("utf-8").partition("</head>\n")
    (folder / "layout.j2").write_text(f"{head}{tag}{{% block page %}}{{% endblock %}}\n</html>\n", "utf-8")
    page = rest.removesuffix("\n</html>\n")
    file.write_text(f'{{% extends "layout.j2" %}}{{% block page %}}{page}{{% endblock %}}', "utf-8")


def jobs(count: int, stream: str) -> list[Job]:
    lease = Lease(1, 2.0)
    made = []
    for i in range(count):
        own = {"name": f"Ann {i}", "order": f"A-{i:07}", "address": f"Market Row {i % 100}, 10115 Berlin"}
        made.append(
            Job(
                id=456_640_300_056_577 + i,
                stream=stream,
                priority=5,
                domain="example.org",
                campaign="may",
                lease=lease,
                created_at=BEGIN + timedelta(microseconds=777 * i),
                recipient=f"Ann Lee <ann{i}@d{i % 200}.example>",
                template="receipt",
                params=json.dumps(PARAMS | own, ensure_ascii=False),
            )
        )
    return made


def best(do: Callable[[Job], object], todo: list[Job], rounds: int) -> float:
    found = float("inf")
    for _ in range(rounds):
        begin = time.process_time()
        for job in todo:
            do(job)
        found = min(found, (time.process_time() - begin) / len(todo) * 1e6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--size", type=int, default=4096)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), options.size)
        composer = Composer(
            model.Config(
                templates=model.Templates(path=name),
                public=Public(base_url="https://mail.shop.example", secret=("not very secret at all",)),
                identity=(model.Identity(name="shop", sender="The Shop <shop@shop.example>"),),
                stream=(
                    model.Stream(name="plain"),
                    model.Stream(name="tracked", tracking=Tracking(opens=True, clicks=True, utm=True)),
                ),
            )
        )
        templates = Templates(name, 1_000_000)

        def stdlib(job: Job) -> bytes:
            message = EmailMessage(policy=SMTP)
            message["From"], message["To"], message["Date"] = (
                "The Shop <shop@shop.example>",
                job.recipient,
                job.created_at,
            )
            message["Message-ID"] = f"<{job.id}@shop.example>"
            message["Subject"] = contents[job.id].subject
            message.set_content(contents[job.id].text)
            message.add_alternative(contents[job.id].html, subtype="html")
            return message.as_bytes()

        plain, tracked = jobs(options.messages, "plain"), jobs(options.messages, "tracked")
        few = plain[: max(options.messages // 10, 1)]
        contents = {job.id: templates.file("receipt", None, decode_params(job.params)) for job in few}
        print(
            f"plain    {best(composer.compose, plain, options.rounds):8.1f} µs, {len(composer.compose(plain[0]).content)} octets"
        )
        print(
            f"tracked  {best(composer.compose, tracked, options.rounds):8.1f} µs, {len(composer.compose(tracked[0]).content)} octets"
        )
        print(f"stdlib   {best(stdlib, few, 3):8.1f} µs, without rendering")


if __name__ == "__main__":
    main()
