"""The command line. `main` turns every error into `error:` and `hint:` lines and an exit code.

Exit codes: 0 done, 1 something went wrong, 2 wrong usage or option, 3 an anomaly was found with --fail-on-anomaly.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import warnings
from typing import Any, NoReturn


def _fail(message: str, hint: str | None, code: int) -> NoReturn:
    print(f"error: {_one_line(message)}", file=sys.stderr)
    print(f"hint: {_one_line(hint or 'see `blemish --help`')}", file=sys.stderr)
    raise SystemExit(code)


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines())


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {_one_line(str(message))}", file=sys.stderr)


def _usage_error() -> Any:
    """The base of all of Typer's usage errors: click's, or that of the copy of click that newer releases carry."""
    import typer

    return typer.BadParameter.__base__


def _prepare_streams() -> None:
    """UTF-8 on stdout and stderr whatever the locale says, with escapes for what is none (names of files in other
    encodings): no line is lost. What is closed gets a place, so that a file opened later does not receive what is
    printed.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (until the process ends)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if sys.stdout is None:
        _fail("standard output is closed, and results go there", "send it to a file, or to /dev/null", 1)


def _drop_stdout() -> None:
    """Forget what cannot be written any more, so that the interpreter does not try again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse_empty(arguments: list[str]) -> None:
    """An empty argument is a variable that is not set; as a path it would be the current folder."""
    for number, argument in enumerate(arguments):
        before = arguments[number - 1] if number else ""
        if not argument.strip():
            what = before if before.startswith("--") else f"argument {number + 1}"
        elif re.fullmatch(r"--[\w-]+=\s*", argument):
            what = argument.partition("=")[0]
        else:
            continue
        _fail(f"{what} is empty", "is a variable not set? name a path, or leave it out", 2)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit."""
    import typer

    from blemish.cli.app import app
    from blemish.cli.progress import Terminated
    from blemish.errors import BlemishError, ConfigError

    _prepare_streams()
    warnings.showwarning = _show_warning
    _refuse_empty(sys.argv[1:] if arguments is None else arguments)
    stopped = ("interrupted", "what is finished stays; start again to resume", 130)
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
    except ConfigError as error:
        _fail(str(error), error.hint, 2)
    except BlemishError as error:
        _fail(str(error), error.hint, 1)
    except _usage_error() as error:
        command = error.ctx.command_path if error.ctx else "blemish"
        _fail(error.format_message(), f"see `{command} --help`", 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail(*stopped)
    except Terminated:
        _fail("terminated", stopped[1], 143)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        _drop_stdout()
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRAS:
            raise
        package = (error.name or "").partition(".")[0]
        _fail(f"{package} is not installed", f"pip install 'blemish[{_EXTRAS[package]}]' brings it", 1)
    except OSError as error:
        _drop_stdout()
        if error.errno == errno.ENOMEM:
            _fail("out of memory", _LESS, 1)
        _fail(f"{error.filename or 'system'}: {error.strerror or error}", "check path, permission and free space", 1)
    except Exception as error:
        from blemish.system import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        _fail(f"out of memory ({str(error) or type(error).__name__})", _LESS, 1)
    if code == 130:  # some releases of Typer keep quiet about Ctrl-C
        _fail(*stopped)
    raise SystemExit(code if isinstance(code, int) else 0)


_LESS = "smaller images (--image-size), fewer --threads, or a higher limit of memory"


# packages that are imported where they are needed, and the extra that brings them
_EXTRAS = {name: "train" for name in ("torch", "torchvision", "timm")}
_EXTRAS |= {name: "bench" for name in ("pyarrow", "matplotlib", "scikit_posthocs", "statsmodels", "pandas")}
_EXTRAS |= {name: "3d" for name in ("scipy", "plyfile", "pypcd4", "tifffile")}
_EXTRAS |= {name: "ray" for name in ("ray", "fsspec", "s3fs")}
_EXTRAS |= {name: "station" for name in ("fastapi", "uvicorn", "jinja2", "sqlalchemy", "alembic", "argon2", "paho")}
_EXTRAS |= {name: "station" for name in ("prometheus_client", "python_multipart")}
