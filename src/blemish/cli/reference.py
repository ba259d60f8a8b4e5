"""The command-line page, made from the commands themselves: `python -m blemish.cli.reference > docs/cli.md`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_HEAD = """# Command line
Made by `python -m blemish.cli.reference` from the commands themselves; a test compares them.

stdout carries results only, messages and progress go to stderr. Errors are one `error:` line that names the file, field
or value and one `hint:` line that says what to do. Exit codes: 0 done, 1 trouble, 2 wrong usage or option, 3 an anomaly
was found with `--fail-on-anomaly`.
"""


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
    value = getattr(parameter.default, "value", parameter.default)
    if parameter.required:
        return "required"
    return "" if value is None or value is False or value == [] else f"`{'on' if value is True else value}`"


if __name__ == "__main__":
    print(page(), end="")
