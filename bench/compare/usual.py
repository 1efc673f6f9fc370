"""The usual Python mail worker: a table with a status, a row at a time, EmailMessage, aiosmtplib.

Ten tasks, each with its own Postgres and its own kept SMTP connection: take a row with FOR UPDATE SKIP LOCKED, render
it with jinja2, send it, mark it sent, commit. uvloop, prepared statements, templates compiled once, a partial index on
what is pending: what a careful team writes in an afternoon.

    python usual.py fill --database URL --messages N --templates FOLDER
    python usual.py work --database URL --port PORT --templates FOLDER
"""

from __future__ import annotations

import argparse
import asyncio
import json
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, localtime, make_msgid
from pathlib import Path

import aiosmtplib
import asyncpg
import jinja2
import uvloop

TASKS = 10

SCHEMA = """
DROP TABLE IF EXISTS usual_mail;
CREATE TABLE usual_mail (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, recipient text NOT NULL, template text NOT NULL,
  params jsonb NOT NULL, status text NOT NULL DEFAULT 'pending', sent_at timestamptz);
CREATE INDEX usual_mail_pending ON usual_mail (id) WHERE status = 'pending';
"""
TAKE = """
SELECT id, recipient, params FROM usual_mail WHERE status = 'pending' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
"""


async def fill(database: str, messages: int, params_sql: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(SCHEMA)
    await connection.execute(
        f"""INSERT INTO usual_mail (recipient, template, params)
            SELECT 'user' || i || '@d' || i % 200 || '.example', 'receipt', {params_sql} FROM generate_series(1, {messages}) i"""
    )
    await connection.execute("VACUUM ANALYZE usual_mail")
    await connection.close()


async def worker(database: str, port: int, templates: dict[str, jinja2.Template]) -> None:
    connection = await asyncpg.connect(database)
    smtp = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False)
    await smtp.connect()
    while True:
        async with connection.transaction():
            row = await connection.fetchrow(TAKE)
            if row is None:
                break
            params = json.loads(row["params"])
            mail = EmailMessage(policy=SMTP)
            mail["From"] = "Oak & Wool <orders@shop.example>"
            mail["To"] = row["recipient"]
            mail["Subject"] = templates["subject"].render(params)
            mail["Date"] = format_datetime(localtime())
            mail["Message-ID"] = make_msgid(domain="shop.example")
            mail.set_content(templates["text"].render(params))
            mail.add_alternative(templates["html"].render(params), subtype="html")
            await smtp.send_message(mail, sender="bounces@shop.example")
            await connection.execute("UPDATE usual_mail SET status = 'sent', sent_at = now() WHERE id = $1", row["id"])
    await smtp.quit()
    await connection.close()


async def work(database: str, port: int, folder: Path) -> None:
    plain = jinja2.Environment(undefined=jinja2.StrictUndefined)
    html = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True)
    templates = {
        "subject": plain.from_string((folder / "subject.j2").read_text()),
        "text": plain.from_string((folder / "text.j2").read_text()),
        "html": html.from_string((folder / "html.j2").read_text()),
    }
    await asyncio.gather(*(worker(database, port, templates) for _ in range(TASKS)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["fill", "work"])
    parser.add_argument("--database", required=True)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--port", type=int)
    parser.add_argument("--templates", type=Path)
    options = parser.parse_args()
    if options.action == "fill":
        from mailerd.bench.template import PARAMS_SQL

        uvloop.run(fill(options.database, options.messages, PARAMS_SQL))
    else:
        uvloop.run(work(options.database, options.port, options.templates))


if __name__ == "__main__":
    main()
