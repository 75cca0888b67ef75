"""docs/cli.md names every command once, with an example that the program would understand; and `moor --help` is fast."""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli.main import COMMANDS, moor

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"
_SECTION = re.compile(
    r"^#+ moor (?P<name>[a-z -]+)\n\n(?P<text>[^\n]+)\n\n```sh\n(?P<example>[^\n]+)\n```$", re.MULTILINE
)


def leaves(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, f"{path} {name}".strip())


def every_command() -> dict[str, click.Command]:
    """All but `moor dev`, which has a page of its own."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = None if name == "dev" else moor.get_command(click.Context(moor), name)
        if command is not None:
            found.update(leaves(command, name))
    return found


EVERY = every_command()
DOCUMENTED = {match["name"]: match for match in _SECTION.finditer(PAGE.read_text())}


def test_the_page_has_every_command_and_no_other() -> None:
    assert sorted(DOCUMENTED) == sorted(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_examples_use_the_command_and_its_options(name: str) -> None:
    command = EVERY[name]
    text = (command.help or "").split("\n\n")[0].replace("\n", " ").strip()
    assert DOCUMENTED[name]["text"] == text
    example = DOCUMENTED[name]["example"]
    words = shlex.split(example.rsplit("| ", 1)[-1].split(" > ")[0])
    assert words[: 1 + len(name.split())] == ["moor", *name.split()]
    context = click.Context(command, info_name=name, resilient_parsing=True)
    command.parse_args(context, words[1 + len(name.split()) :])
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used <= known


@pytest.mark.parametrize("name", EVERY)
def test_every_command_and_option_has_help(name: str) -> None:
    command = EVERY[name]
    assert (command.help or "").strip().split("\n\n")[0].strip()
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_help_is_the_table_of_commands() -> None:
    """The lines of `moor --help` are kept apart from the commands, so that none is imported; they must agree."""
    for name, entry in COMMANDS.items():
        assert entry.help.endswith(".")
        assert len(entry.help) < 60, name


def test_help_loads_neither_grpc_nor_asyncio() -> None:
    program = (
        "import sys; sys.argv = ['moor', '--help']\n"
        "from cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'grpc', 'asyncio', 'google', 'yaml', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "Run an image or a template." in done.stdout
    assert time.monotonic() - started < 5  # measured 0.07 s; this only catches what is far off, on a busy machine
