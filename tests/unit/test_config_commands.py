"""The command group and `config`, `init`, `check` without a network: output, exit statuses, one line an error."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from mailerd import cli
from mailerd.cli import main, output
from mailerd.cli.config import masked

RELAY = '[[provider]]\nname = "relay"\nusername = "u"\npassword = "tops3cret"\n'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("MAILERD_", "PG", "DATABASE_URL"))]:
        monkeypatch.delenv(name)


def mailerd(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def broken(name: str, error: BaseException) -> click.Command:
    @click.command(name)
    def command() -> None:
        raise error

    return command


def entry(monkeypatch: pytest.MonkeyPatch, command: click.Command) -> None:
    """Puts a command of the test into the table, in a module of its own."""
    module: Any = type(sys)("mailerd_test_command")
    module.command = command
    monkeypatch.setitem(sys.modules, "mailerd_test_command", module)
    monkeypatch.setitem(cli.COMMANDS, "x", cli.Entry("mailerd_test_command:command", "Measuring", "Test."))


def test_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys; from mailerd.cli import main\ntry: main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    for name, line in cli.COMMANDS.items():
        assert f"  {name}" in run.stdout
        assert line.help in run.stdout
    loaded = set(run.stderr.split())
    assert "click" in loaded
    heavy = {"rich", "aiohttp", "asyncpg", "msgspec", "asyncio", "jinja2", "uvloop"}
    assert not heavy & loaded
    assert {name for name in loaded if name.startswith("mailerd.cli.")} == {"mailerd.cli.output"}


def test_help_fits_eighty_columns() -> None:
    for arguments in (["--help"], ["check", "--help"], ["config", "show", "--help"], ["init", "-h"]):
        result = mailerd(*arguments)
        assert result.exit_code == 0
        assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_version() -> None:
    assert mailerd("--version").stdout == "mailerd 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["rum"], "No such command 'rum'. Did you mean `run`? See `mailerd --help`."),
        (["--frob"], "No such option '--frob'. See `mailerd --help`."),
        (["check", "extra"], "Got unexpected extra argument (extra). See `mailerd check --help`."),
    ],
)
def test_wrong_usage_is_one_line_and_2(arguments: list[str], line: str) -> None:
    result = mailerd(*arguments)
    assert result.exit_code == 2
    assert result.stderr == f"mailerd: {line}\n"
    assert result.stdout == ""


def test_a_missing_module_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "x", cli.Entry("mailerd.cli.nope:x", "Measuring", "Test."))
    assert mailerd("--help").exit_code == 0
    result = mailerd("x")
    assert result.exit_code == 1
    assert result.stderr == "mailerd: x: not part of this installation (mailerd.cli.nope is missing)\n"


def test_every_command_there_is_can_be_loaded() -> None:
    for name in cli.COMMANDS:
        result = mailerd(name, "--help")
        missing = "not part of this installation" in result.stderr
        assert missing or (result.exit_code == 0 and "--config PATH" in result.stdout), name


def test_the_unexpected_is_one_line_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    entry(monkeypatch, broken("x", KeyError("k\x1b[2J")))
    result = mailerd("x")
    assert result.exit_code == 1
    assert result.stderr == "mailerd: unexpected KeyError: 'k\\x1b[2J' (MAILERD_DEBUG=1 shows where)\n"
    monkeypatch.setenv("MAILERD_DEBUG", "1")
    assert "Traceback" in mailerd("x").stderr


def test_fatal_carries_lines_and_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    entry(monkeypatch, broken("x", output.Fatal(["one", "two\nthree"], output.Exit.TRY_AGAIN)))
    result = mailerd("x")
    assert result.exit_code == 75
    assert result.stderr == "mailerd: one\nmailerd: two\\nthree\n"


def test_what_a_command_returns_is_no_status(monkeypatch: pytest.MonkeyPatch) -> None:
    entry(monkeypatch, click.command("x")(lambda: 5))
    assert mailerd("x").exit_code == 0


def test_config_before_or_after_the_command(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text(RELAY + "[instance]\nname = 'other'\n")
    for arguments in (
        ["--config", str(file), "config", "show"],
        ["config", "--config", str(file), "show"],
        ["config", "show", "--config", str(file)],
    ):
        result = mailerd(*arguments, "--changed")
        assert result.exit_code == 0
        line = next(line for line in result.stdout.splitlines() if line.startswith("instance.name"))
        assert line.split() == ["instance.name", '"other"', f"{file}:6"]
    assert mailerd("--config", "none.toml", "config", "show").exit_code == 78


def test_show_masks_secrets_and_tells_origins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mailerd.toml").write_text(RELAY)
    monkeypatch.setenv("MAILERD_DATABASE__URL", "postgresql://u:tops3cret@h/d")
    for arguments in ([], ["--changed"], ["--json"]):
        result = mailerd("config", "show", *arguments)
        assert result.exit_code == 0
        assert "tops3cret" not in result.output
        assert "postgresql://u:********@h/d" in result.output
    values = msgspec.json.decode(mailerd("config", "show", "--json").stdout)["values"]
    assert values["provider.relay.password"] == {"value": "********", "origin": "mailerd.toml:4"}
    assert values["database.url"]["origin"] == "env MAILERD_DATABASE__URL"
    assert values["lease.ttl"] == {"value": 60.0, "origin": "default"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p%40@h/d", "postgresql://u:********@h/d"),
        ("postgresql://u@h:5432/d", "postgresql://u@h:5432/d"),
        (
            "postgresql:///d?user=u&password=x&sslpassword=y",
            "postgresql:///d?user=u&password=********&sslpassword=********",
        ),
        ("postgresql://u:p@a:1,b:2/d", "postgresql://u:********@a:1,b:2/d"),
        ("postgresql://u:p:q@h/d", "postgresql://u:********@h/d"),
        ("host=h password=x", "********"),
        ("off", "off"),
    ],
)
def test_masks(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_reference_as_text_and_json() -> None:
    assert "- `on_uncertain`" in mailerd("config", "reference").stdout
    rows = msgspec.json.decode(mailerd("config", "reference", "--json").stdout)
    row = next(row for row in rows if row["key"] == "provider.NAME.password")
    assert row["variable"] == "MAILERD_PROVIDER__NAME__PASSWORD"
    assert row["secret"] is True


def test_init_writes_once_and_its_file_is_good(tmp_path: Path) -> None:
    first = mailerd("init")
    assert first.exit_code == 0
    assert "mailerd check --connect" in first.stdout
    assert mailerd("check").exit_code == 0
    (tmp_path / "mailerd.toml").write_text("mine")
    again = mailerd("init")
    assert again.exit_code == 1
    assert again.stderr == "mailerd: mailerd.toml exists: it is left as it is (--force overwrites it)\n"
    assert (tmp_path / "mailerd.toml").read_text() == "mine"
    assert mailerd("init", "--force").exit_code == 0
    assert "[[provider]]" in (tmp_path / "mailerd.toml").read_text()


def test_init_where_it_is_told_to(tmp_path: Path) -> None:
    assert "mailerd run --config a.toml" in mailerd("init", "a.toml").stdout
    assert "mailerd run --config b.toml" in mailerd("--config", "b.toml", "init", "--full").stdout
    assert (tmp_path / "b.toml").read_text().count("\n") > (tmp_path / "a.toml").read_text().count("\n")
    assert mailerd("init", "none/x.toml").stderr == "mailerd: none/x.toml: No such file or directory\n"


def test_check_reports_everything_at_once(tmp_path: Path) -> None:
    (tmp_path / "mailerd.toml").write_text("[lease]\nttl = 0\n[databse]\n[[stream]]\nname='s'\npool=['x']\n")
    result = mailerd("check")
    assert result.exit_code == 78
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "mailerd: mailerd.toml:2: lease.ttl: must not be zero",
        "mailerd: mailerd.toml:3: databse: unknown table; did you mean `database`?",
        "mailerd: mailerd.toml:6: stream.s.pool: unknown key; did you mean `pools`?",
        "mailerd: provider: there is no [[provider]]: name at least one to send through",
    ]
    result = mailerd("check", "--json")
    assert result.exit_code == 78
    report = msgspec.json.decode(result.stdout)
    assert report["ok"] is False
    assert report["problems"][0] == {"path": "lease.ttl", "line": 2, "message": "must not be zero"}
    assert len(report["problems"]) == 4


def test_check_of_a_good_file(tmp_path: Path) -> None:
    (tmp_path / "mailerd.toml").write_text(RELAY)
    result = mailerd("check")
    assert result.exit_code == 0
    assert result.stdout == "mailerd.toml: no errors (2 streams, 1 pool, 1 provider, 0 identities)\n"
    assert msgspec.json.decode(mailerd("check", "--json").stdout) == {
        "ok": True, "file": "mailerd.toml", "problems": [], "warnings": [], "checks": []
    }  # fmt: skip


def on_a_terminal(*arguments: str, **env: str) -> str:
    """The command's output as a terminal gets it."""
    reader, writer = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "mailerd", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            env={**os.environ, "TERM": "xterm", "PYTHONPATH": str(Path(cli.__file__).parents[2]), **env},
        ) as process:
            os.close(writer)
            text = b""
            while True:
                try:
                    chunk = os.read(reader, 65_536)
                except OSError:  # the other side is closed
                    break
                if not chunk:
                    break
                text += chunk
            assert process.wait(timeout=60) == 0
    finally:
        os.close(reader)
    return text.decode()


def test_colour_on_a_terminal_only_and_never_with_no_color(tmp_path: Path) -> None:
    (tmp_path / "mailerd.toml").write_text(RELAY)
    assert "\x1b[" in on_a_terminal("config", "show", "--changed", COLUMNS="80")
    assert "\x1b[3" not in on_a_terminal("config", "show", "--changed", COLUMNS="80", NO_COLOR="1")
    assert "\x1b" not in on_a_terminal("config", "show", "--changed", COLUMNS="80", TERM="dumb")
    assert "\x1b" not in mailerd("config", "show").stdout


def test_tables_hold_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("A", "N"), [("a\x1b]0;x\x07\nb", 5), (None, 12345)], right=("N",))
    assert capsys.readouterr().out == "A                     N\na\\x1b]0;x\\x07\\nb      5\n-                 12345\n"


def test_an_empty_table_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(("A", "B"), [])
    assert capsys.readouterr().out == "A  B\n"
