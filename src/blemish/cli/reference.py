"""Pages made from the code: `python -m blemish.cli.reference > docs/cli.md`, and with `options` docs/options.md."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from blemish.learning.options import OPTIONS, Option

_HEAD = """# Command line
Made by `python -m blemish.cli.reference` from the commands themselves; a test compares them.

stdout carries results only, messages and progress go to stderr. Errors are one `error:` line that names the file, field
or value and one `hint:` line that says what to do. Exit codes: 0 done, 1 an error, 2 wrong usage or option, 3 an
anomaly was found with `--fail-on-anomaly`.
"""

_OPTIONS = """# Options of a fit
Made by `python -m blemish.cli.reference options` from `FitOptions` in `blemish/learning/options.py`, where each option
is declared once; a test compares them.

The name is what `Detector(...)`, a recipe (`run.json`) and `[fit]` of a suite take; the flag is that of `blemish fit`.
A method's own options stand beside these: by name in `Detector(...)`, with `--set name=value` on the command line; the
[method's page](methods/index.md) lists them.
"""
_TYPES = {str: "text", int: "integer", float: "number", bool: "yes or no"}


def page() -> str:
    """The page, the same on every machine."""
    from blemish.cli.app import commands

    return "\n".join([_HEAD, *(_section(name, command) for name, command in commands().items())])


def _section(name: str, command: Any) -> str:
    usage = " ".join(["blemish", name, *_usage(command)])
    rows = "\n".join(f"| {' | '.join(row)} |" for row in _rows(command))
    return f"## {name}\n{command.help}\n\n`{usage}`\n\n| | default | |\n|---|---|---|\n{rows}\n"


def _usage(command: Any) -> Iterator[str]:
    """Arguments, and the options that have to be given."""
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            yield _name(parameter) + ("..." if parameter.nargs == -1 else "")
        elif parameter.required:
            yield f"{parameter.opts[0]} {parameter.name.strip('_').upper()}"


def _rows(command: Any) -> Iterator[tuple[str, str, str]]:
    for parameter in command.params:
        text = (parameter.help or "").replace("|", "\\|")
        if parameter.param_type_name == "argument":
            yield f"`{_name(parameter)}`", "", text
            continue
        names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
        choices = getattr(parameter.type, "choices", None)
        if choices:
            text += f" One of {', '.join(str(getattr(c, 'value', c)) for c in choices)}."
        if getattr(parameter, "multiple", False):
            names += " (repeatable)"
        yield names, _default(parameter), text


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _default(parameter: Any) -> str:
    return "required" if parameter.required else _shown(getattr(parameter.default, "value", parameter.default))


def _shown(value: Any) -> str:
    """A default as a page has it; empty where there is none."""
    if value is None or value is False or value in ([], ()):
        return ""
    if value is True:
        return "`on`"
    return f"`{', '.join(map(str, value))}`" if isinstance(value, list | tuple) else f"`{value}`"


def options_page() -> str:
    """The page of all options of a fit, a table for each group."""
    tables = []
    for group, members in groupby(OPTIONS.values(), key=lambda option: option.group):
        rows = "\n".join(f"| {' | '.join(_row(option))} |" for option in members)
        tables.append(f"## {group}\n\n| name | flag | type | default | |\n|---|---|---|---|---|\n{rows}\n")
    return "\n".join([_OPTIONS, *tables])


def _row(option: Option) -> tuple[str, ...]:
    kind = "path" if option.file else _TYPES.get(option.item or option.type, "text")
    if option.choices:
        kind = ", ".join(f"`{choice}`" for choice in option.choices)
    if option.item:
        kind += ", several"
    if option.least is not None:
        kind += f", {option.least} to {option.most}"
    flags = ", ".join(f"`{flag}`" for flag in option.flag.split("/"))
    return f"`{option.name}`", flags, kind, _shown(option.default), option.help.replace("|", "\\|")


if __name__ == "__main__":
    print(options_page() if sys.argv[1:] == ["options"] else page(), end="")
