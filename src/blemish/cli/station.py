"""`blemish station ...`: an inspection station, set up, run and looked after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from blemish.cli import about

if TYPE_CHECKING:
    from blemish.station.audit import Actor
    from blemish.station.config import Config
    from blemish.station.ledger.database import Ledger
    from blemish.station.place import Place

app = typer.Typer(
    name="station",
    help="A local application for a line: pictures come in, verdicts go out, and none is lost.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _group(name: str, text: str) -> typer.Typer:
    group = typer.Typer(name=name, help=text, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group)
    return group


users = _group("user", "People who may use the pages.")
tokens = _group("token", "Machines that may use the interface.")
sources = _group("source", "Where pictures come from.")
models = _group("model", "Models that can be put live.")

Role = StrEnum("Role", ("VIEWER", "INSPECTOR", "ENGINEER", "MAINTENANCE", "AUDITOR", "ADMIN"))
Scope = StrEnum("Scope", ("SEND", "READ", "ADMIN"))
Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The station's folder.")]
Name = Annotated[str, typer.Argument(help="Its name.")]
Source = Annotated[str, typer.Option(help="The name of a source.")]
Reason = Annotated[str, typer.Option(help="Why; it stands in the audit trail.")]


@contextmanager
def _open(folder: Path) -> Iterator[tuple[Place, Config, Ledger]]:
    from blemish.station.setup import opened

    place, config, ledger = opened(folder)
    try:
        yield place, config, ledger
    finally:
        ledger.close()


def _actor() -> Actor:
    """Whoever has a shell on the station's computer."""
    import getpass

    from blemish.station.audit import Actor

    return Actor(getpass.getuser(), "shell")


@app.command()
def init(
    folder: Dir,
    root: Annotated[Optional[list[Path]], typer.Option(help="Hot folders may lie in it; repeatable.")] = None,  # noqa: UP045
    site: Annotated[str, typer.Option(help="Name of the plant, in messages.")] = "site",
    line: Annotated[str, typer.Option(help="Name of the line, in messages.")] = "line",
) -> None:
    """Make a station in a new folder."""
    from blemish.station import setup

    place = setup.init(folder, site=site, line=line, roots=tuple(str(one) for one in root or ()))
    about.emit({"station": str(place.root), "config": str(place.config)})


@app.command()
def serve(
    folder: Dir,
    host: Annotated[
        Optional[str], typer.Option(help="Address to listen at; that of station.toml if not given.")  # noqa: UP045
    ] = None,  # noqa: UP045
    port: Annotated[Optional[int], typer.Option(min=1, max=65535, help="As in station.toml, if not given.")] = None,  # noqa: UP045
) -> None:
    """Run a station until Ctrl-C or SIGTERM; its address is on stdout."""
    from blemish.station import serve as command

    command.serve(folder, host, port)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where it lies; made at the first time.")] = Path("station-demo"),
    port: Annotated[Optional[int], typer.Option(min=1, max=65535, help="Of the pages.")] = None,  # noqa: UP045
    rate: Annotated[float, typer.Option(min=0.01, max=1000, help="Pictures a second.")] = 2.0,
    method: Annotated[str, typer.Option(help="A name from `blemish methods`, at the first time.")] = "padim",
    only_make: Annotated[bool, typer.Option("--only-make", help="Make it, and do not run it.")] = False,
) -> int:
    """A station with a model of solar cells, that real cells come in to; Ctrl-C ends it."""
    import subprocess
    import sys
    from functools import partial

    from blemish.cli.progress import track
    from blemish.station import demo as station_demo

    records = station_demo.cells()
    if only_make:
        station_demo.make(folder, records, method, track)
        return 0
    # in a process of its own: what runs a station holds no engine
    making = [sys.executable, "-m", "blemish", "station", "demo", "--only-make"]
    made = subprocess.run([*making, "--folder", str(folder), "--method", method], check=False)
    if made.returncode:
        return made.returncode
    from blemish.station import serve as command

    typer.echo((folder / station_demo.LOGIN).read_text(encoding="utf-8"))
    command.serve(folder / "station", None, port, feed=partial(station_demo.feed, folder / "in", records, rate))
    return 0


@app.command()
def send(
    url: Annotated[str, typer.Argument(help="Of the station, as http://127.0.0.1:8040")],
    paths: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    source: Source,
    token: Annotated[str, typer.Option(envvar="BLEMISH_TOKEN", help="Of the machine; better by BLEMISH_TOKEN.")],
    part_id_from_name: Annotated[
        bool, typer.Option("--part-id-from-name", help="The file's name without its ending is the part's id.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="For verdicts; else until each picture is safe.")] = False,
) -> int:
    """Send pictures to a station: its answers, one line each. Exit 1 if it refused one."""
    from blemish.station import send as command

    refused = False
    asked = {"part_id_from_name": part_id_from_name, "wait": wait}
    for answer in command.send(url, command.pictures(paths), token=token, source=source, **asked):
        refused |= "error" in answer and answer.get("status") not in (200, 202)
        about.emit(answer)
    return int(refused)


@app.command()
def verify(
    folder: Dir,
    deep: Annotated[bool, typer.Option("--deep", help="Read every picture, and compare it with its sha256.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="Remove pictures that no row of the ledger owns.")] = False,
) -> int:
    """Whether anything was lost, doubled or changed; running or not. Exit 1 if so."""
    from blemish.station import config as settings
    from blemish.station.ledger.database import Ledger
    from blemish.station.place import Place
    from blemish.station.verify import verify as look

    place = Place.of(folder)
    config = settings.read(place.config)
    ledger = Ledger.of(place, config)
    try:
        report = look(place, config, ledger, deep=deep, sweep=sweep)
    finally:
        ledger.close()
    _told(report)
    return int(bool(report.wrong))


def _told(report: Any) -> None:
    """JSON on stdout, and for people on stderr."""
    for line in report.lines():
        typer.echo(about.printable(line), err=True)
    about.emit(report.to_json())


@app.command()
def backup(
    folder: Dir,
    out: Annotated[Path, typer.Argument(help="The folder to write; new.")],
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Those that are kept, too.")] = True,
) -> None:
    """Copy a station into one folder while it runs."""
    from blemish.station import config as settings
    from blemish.station.backup import backup as command
    from blemish.station.place import Place

    place = Place.of(folder)
    note = command(place, settings.read(place.config), out, pictures=pictures)
    about.emit({"backup": str(out), **note})


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="A folder that `backup` wrote.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The station's folder; new.")],
) -> int:
    """Make a station of a backup, and verify it. Exit 1 if anything is wrong."""
    from blemish.station.backup import restore as command

    _, report = command(source, folder)
    _told(report)
    return int(bool(report.wrong))


@app.command()
def export(
    folder: Dir,
    from_: Annotated[str, typer.Option("--from", help="Date or time, UTC if it says no zone; from then on.")],
    to: Annotated[str, typer.Option("--to", help="Until then, which is not part of it.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The zip to write; new.")],
    source: Annotated[Optional[str], typer.Option(help="Of one source alone.")] = None,  # noqa: UP045
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Those that are kept, too.")] = True,
) -> None:
    """Inspections of a time as one zip: CSV, JSON lines, pictures, and what the models are."""
    from blemish.errors import ConfigError
    from blemish.station.export import exported

    if out.exists():
        raise ConfigError(f"{out} exists", hint="give a new file")
    start, end = _moment(from_, "--from"), _moment(to, "--to")
    partial = out.with_name(f".{out.name}.partial")
    with _open(folder) as (place, _, ledger):
        try:
            with partial.open("wb") as file:
                for part in exported(place, ledger, start=start, end=end, source=source, pictures=pictures):
                    file.write(part)
            partial.rename(out)
        finally:
            partial.unlink(missing_ok=True)
    about.emit({"export": str(out), "bytes": out.stat().st_size})


def _moment(text: str, option: str) -> int:
    """Milliseconds since 1970."""
    from datetime import UTC, datetime

    from blemish.errors import ConfigError

    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} '{text}' is no date", hint="as 2026-11-30, or 2026-11-30T06:00+01:00") from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


@app.command()
def deploy(
    folder: Dir,
    source: Source,
    model: Annotated[str, typer.Option(help="Digest of an imported model, or the start of it, or its name.")],
    reason: Reason,
    lost_defects_accepted: Annotated[
        bool,
        typer.Option("--lost-defects-accepted", help="Also if known defects would be lost; the reason says why."),
    ] = False,
) -> None:
    """Put a model live for a source, from the next picture on: a change, made and approved at once."""
    from sqlalchemy import or_, select

    from blemish.errors import ConfigError
    from blemish.station.changes import put_live
    from blemish.station.ledger.schema import models as table
    from blemish.station.setup import source_named

    with _open(folder) as (place, _, ledger):
        source_id, digest = source_named(ledger, source), model.removeprefix("sha256:")
        with ledger.read() as connection:
            asked = or_(table.c.digest.startswith(digest, autoescape=True), table.c.name == model)
            found = connection.execute(select(table).where(asked)).all()
        if len(found) != 1:
            hint = "blemish station model list names them"
            raise ConfigError(f"{len(found)} models are meant by '{model}'", hint=hint)
        asked_for = (source_id, found[0].id, reason)
        number, effect = put_live(place, ledger, _actor(), *asked_for, lost_accepted=lost_defects_accepted)
    about.emit({"deployment": number, "model": found[0].digest, "golden_equal": effect["golden"]["equal"]})


@app.command()
def rollback(folder: Dir, source: Source, reason: Reason) -> None:
    """Put the model live again that was so before."""
    from blemish.station.changes import roll_back
    from blemish.station.setup import source_named

    with _open(folder) as (_, _, ledger):
        source_id = source_named(ledger, source)
        with ledger.write() as connection:
            number = roll_back(connection, _actor(), source_id, reason)
    about.emit({"deployment": number})


@users.command("add")
def user_add(folder: Dir, name: Name, role: Annotated[Role, typer.Option(help="What they may do.")]) -> None:
    """A new user; the password is asked for, or read from stdin."""
    import sys

    from blemish.station.auth import add_user

    if sys.stdin.isatty():
        password = str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    with _open(folder) as (_, _, ledger), ledger.write() as connection:
        add_user(connection, _actor(), name, role.value, password)
    about.emit({"user": name, "role": role.value})


@users.command("list")
def user_list(folder: Dir) -> None:
    """All users, one line each."""
    from blemish.station.users import listed

    with _open(folder) as (_, _, ledger), ledger.read() as connection:
        for row in listed(connection):
            about.emit(row)


@users.command("disable")
def user_disable(folder: Dir, name: Name) -> None:
    """Let nobody in by that name any more; what they did stays theirs."""
    from blemish.station.users import disable_user

    with _open(folder) as (_, _, ledger), ledger.write() as connection:
        disable_user(connection, _actor(), name)
    about.emit({"user": name, "active": False})


@tokens.command("add")
def token_add(
    folder: Dir, name: Name, scopes: Annotated[list[Scope], typer.Option("--scopes", help="What it may do.")]
) -> None:
    """A new token, which is shown now and never again."""
    from blemish.station.auth import add_token

    with _open(folder) as (_, _, ledger), ledger.write() as connection:
        _, token = add_token(connection, _actor(), name, [scope.value for scope in scopes])
    about.emit({"name": name, "token": token})


@sources.command("add")
def source_add(
    folder: Dir,
    name: Name,
    path: Annotated[Optional[Path], typer.Option(help="A hot folder; without it pictures come by HTTP.")] = None,  # noqa: UP045
    settle: Annotated[
        Optional[float], typer.Option(help="Seconds that a file rests before it counts as whole.")  # noqa: UP045
    ] = None,  # noqa: UP045
    scan: Annotated[Optional[float], typer.Option(help="Seconds between two looks.")] = None,  # noqa: UP045
    share: Annotated[bool, typer.Option("--share", help="On the network: settles longer.")] = False,
    done: Annotated[bool, typer.Option("--done", help="A file is whole once NAME.done lies beside it.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="Copy pictures, and leave them there.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Folders in it too.")] = False,
    always_new: Annotated[
        bool, typer.Option("--always-new", help="The same name and bytes within a day are a new part.")
    ] = False,
    review_rate: Annotated[Optional[float], typer.Option(help="Share of parts drawn at random for review.")] = None,  # noqa: UP045
) -> None:
    """A new source; a model has to be put live for it before pictures are taken."""
    import json
    from dataclasses import fields

    from sqlalchemy import insert, select

    from blemish.errors import ConfigError
    from blemish.station import audit
    from blemish.station.ledger.schema import products
    from blemish.station.ledger.schema import sources as table
    from blemish.station.sources.folder import Options

    given = {"settle": settle, "scan": scan, "share": share, "done": done, "read_only": read_only, "deep": deep}
    given |= {"always_new": always_new, "review_rate": review_rate}
    options: dict[str, Any] = {key: value for key, value in given.items() if value not in (None, False)}
    with _open(folder) as (_, config, ledger):
        if path is not None:
            options["path"] = str(config.inside(path))
            Options.of(options)
        elif wrong := sorted(options.keys() & {f.name for f in fields(Options)} - {"always_new", "review_rate"}):
            raise ConfigError(f"{wrong[0]} is of hot folders", hint="give --path")
        with ledger.write() as connection:
            if connection.scalar(select(table.c.id).where(table.c.name == name)) is not None:
                raise ConfigError(f"there is a source '{name}' already", hint="give another name")
            product = connection.scalar(select(products.c.id).order_by(products.c.id).limit(1))
            values = {"name": name, "kind": "http" if path is None else "folder", "config": json.dumps(options)}
            connection.execute(insert(table).values(**values, product_id=product))
            audit.append(connection, _actor(), "source.add", name, after=values)
    about.emit({"source": name, "kind": values["kind"], **options})


@models.command("import")
def model_import(
    folder: Dir,
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    golden: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="Pictures, or folders of them, whose scores must stay as they are on this computer."),
    ] = None,
    name: Annotated[str, typer.Option(help="Its name; that of the folder if not given.")] = "",
) -> None:
    """Take a model in, checked and copied; `deploy` puts it live."""
    from sqlalchemy import select

    from blemish.station import audit
    from blemish.station.ledger.schema import models as table
    from blemish.station.models import GOLDEN, import_model
    from blemish.station.send import pictures

    with _open(folder) as (place, _, ledger):
        kept = pictures(golden)[:GOLDEN] if golden else []
        number = import_model(place, ledger, model, name=name, golden=kept)
        with ledger.write() as connection:
            row = connection.execute(select(table).where(table.c.id == number)).one()
            after = {"model": number, "digest": row.digest, "golden": len(kept)}
            audit.append(connection, _actor(), "model.import", row.name, after=after)
    about.emit({**after, "name": row.name, "promise": row.promise})


@models.command("list")
def model_list(folder: Dir) -> None:
    """All models, and where they are live, one line each."""
    from sqlalchemy import select

    from blemish.station.ledger.schema import deployments
    from blemish.station.ledger.schema import models as table
    from blemish.station.ledger.schema import sources as source_table

    live = select(deployments.c.model_id, source_table.c.name).where(deployments.c.until.is_(None))
    wanted = select(table.c.id, table.c.name, table.c.digest, table.c.method, table.c.status, table.c.promise)
    with _open(folder) as (_, _, ledger), ledger.read() as connection:
        where = connection.execute(live.join(source_table, source_table.c.id == deployments.c.source_id)).all()
        for row in connection.execute(wanted.order_by(table.c.id)).mappings():
            about.emit({**row, "live": sorted(one.name for one in where if one.model_id == row["id"])})
