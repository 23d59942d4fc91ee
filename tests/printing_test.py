"""No text of a file, a name or a message is a command to the terminal."""

import io
import subprocess
import sys

import pytest
from rich.panel import Panel
from rich.text import Text

from elm_jax import printing
from elm_jax.reporting import terminal

CLEAR, TURN = "\x1b[2J", "\u202e"
EVIL = f"a{CLEAR}b\rc{TURN}d\x9be\x07f\u2028g"
ESCAPED = r"a\x1b[2Jb\rc\u202ed\x9be\x07f\u2028g"


def test_commands_become_escapes_and_everything_else_stays():
    assert printing.escape(EVIL) == ESCAPED
    plain = "naïve 猫\u3000\xa0\tfamily 👨\u200d👩\nline two [/]x [bold]y[/bold]"
    assert printing.escape(plain) == plain


def test_a_stream_writes_escapes_and_is_otherwise_as_it_was():
    below = io.StringIO()
    stream = printing.EscapedStream(below)
    print(EVIL, file=stream, flush=True)
    stream.writelines([CLEAR, TURN])
    assert below.getvalue() == ESCAPED + "\n" + r"\x1b[2J\u202e"
    assert stream.newlines == below.newlines


@pytest.mark.parametrize("is_terminal", [True, False])
def test_tables_and_lines_show_names_as_they_are_without_commands(
    capsys, monkeypatch, is_terminal
):
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    names = [EVIL, "[/]x", "[bold red]x[/bold red]", ":cat:", "[link=evil]x[/link]"]
    terminal.show(terminal.table(f"title {EVIL}", ("name",), [[n] for n in names]))
    terminal.show(Panel(Text(EVIL), title=Text(EVIL)))
    for name in names:
        terminal.show_line(name)
    out = capsys.readouterr().out
    for name in names[1:]:
        assert out.count(name) == 2
    assert not [code for code in (CLEAR, TURN, "\r", "\x9b", "\x07") if code in out]
    assert "a\ufffd[2Jb" in out


@pytest.mark.slow
@pytest.mark.parametrize("binary", ["elm_report", "elm_convert"])
def test_a_binary_prints_no_command_in_its_messages(binary):
    command = [sys.executable, "-m", f"elm_jax.cli.{binary}", f"--x{CLEAR}{TURN}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert r"x\x1b[2J\u202e" in ended.stderr
    assert CLEAR not in ended.stdout + ended.stderr
