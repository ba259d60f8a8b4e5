"""The command line. `main` turns every error into `error:` and `hint:` lines and an exit code.

Exit codes: 0 done, 1 something went wrong, 2 wrong usage or option, 3 an anomaly was found with --fail-on-anomaly.
"""

from __future__ import annotations

import os
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


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and exit."""
    import typer

    from blemish.cli.app import app
    from blemish.errors import BlemishError, ConfigError

    warnings.showwarning = _show_warning
    try:
        code = app(arguments, standalone_mode=False)
    except ConfigError as error:
        _fail(str(error), error.hint, 2)
    except BlemishError as error:
        _fail(str(error), error.hint, 1)
    except _usage_error() as error:
        command = error.ctx.command_path if error.ctx else "blemish"
        _fail(error.format_message(), f"see `{command} --help`", 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", "what is finished stays; start again to go on", 130)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRAS:
            raise
        package = (error.name or "").partition(".")[0]
        _fail(f"{package} is not installed", f"pip install 'blemish[{_EXTRAS[package]}]' brings it", 1)
    except OSError as error:
        _fail(f"{error.filename or 'system'}: {error.strerror or error}", "check path, permission and free space", 1)
    raise SystemExit(code if isinstance(code, int) else 0)


# packages that are imported where they are needed, and the extra that brings them
_EXTRAS = {name: "train" for name in ("torch", "torchvision", "timm", "onnx", "pydantic", "safetensors")}
_EXTRAS |= {name: "bench" for name in ("pyarrow", "matplotlib", "scikit_posthocs", "statsmodels", "pandas")}
_EXTRAS |= {name: "3d" for name in ("scipy", "plyfile", "pypcd4", "tifffile")}
_EXTRAS |= {name: "ray" for name in ("ray", "fsspec", "s3fs")}
