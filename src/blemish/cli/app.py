"""The commands. Everything heavy is imported inside them, so that --help stays light."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Optional, TypeVar

import typer

from blemish.cli import about, station, synthesize
from blemish.inspection.conformal import RegionPer
from blemish.learning.options import OPTIONS, PromisePer

F = TypeVar("F", bound=Callable[..., Any])

app = typer.Typer(
    name="blemish",
    help="Learn what good parts look like from good images alone; find, localise and judge defects.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Format(StrEnum):
    """How `inspect` prints its results."""

    jsonl = "jsonl"
    csv = "csv"
    table = "table"


class Labels(StrEnum):
    """How `inspect` writes regions for label tools."""

    coco = "coco"
    yolo = "yolo"


class Runtime(StrEnum):
    """What runs an exported graph."""

    onnx = "onnx"
    openvino = "openvino"


def of_fit(name: str, text: str | None = None) -> Any:
    """Flag, help and bounds of an option of `FitOptions`; `text` is another help."""
    option = OPTIONS[name]
    return typer.Option(option.flag, help=text or option.help, min=option.least, max=option.most)


def with_fit_options(command: F) -> F:
    """The command with every option of `FitOptions` in place of its `**options`, after the required ones."""
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in signature(command, eval_str=True).parameters.values()][:-1]
    required = [p for p in parameters if p.default is p.empty]
    named = []
    for o in OPTIONS.values():
        kind: Any = list[o.item] if o.item else Path if o.file else o.type  # type: ignore[name-defined]
        default = (o.default or None) if o.item else o.default
        named.append(
            Parameter(o.name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, of_fit(o.name)])
        )
    command.__signature__ = Signature([*required, *named, *parameters[len(required) :]])  # type: ignore[attr-defined]
    return command


Categories = Annotated[Optional[list[str]], typer.Option(help="A category of the data set; repeatable, none = all.")]  # noqa: UP045
Layout = Annotated[Optional[str], typer.Option(help="How the data set lies on disk; detected if not given.")]  # noqa: UP045
Split = Annotated[Optional[str], typer.Option(help="Another split of the data set than its default.")]  # noqa: UP045
Rate = Annotated[float, of_fit("false_alarm_rate")]
Threads = Annotated[Optional[int], typer.Option(min=1, help="Images worked on at once; all cores if not given.")]  # noqa: UP045
EngineName = Annotated[
    str, typer.Option(help="local (= openvino), onnxruntime, or reference (what graphs are compared with).")
]
Address = Annotated[Optional[str], typer.Option(help="Of a Ray cluster; one is started here if not given.")]  # noqa: UP045
ModelPath = Annotated[Path, typer.Argument(help="A model folder.")]
MaxPixels = Annotated[
    Optional[int],  # noqa: UP045
    of_fit("max_pixels", "Larger images are refused; the model's own limit if not given."),
]
FileRate = Annotated[
    Optional[float],  # noqa: UP045
    of_fit("file_rate", "Signals: Hz of files that state none; the model's own if not given."),
]

Scale = Annotated[Optional[str], of_fit("scale", "Size of a source pixel; the model's own if not given.")]  # noqa: UP045


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("blemish"))
        raise typer.Exit


@app.callback()
def blemish(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
@with_fit_options
def fit(
    data: Annotated[str, typer.Argument(help="Folder of good images, data set, manifest, or a packaged set's name.")],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    context: typer.Context,
    set_: Annotated[Optional[list[str]], typer.Option("--set", help="An option of the method, key=value.")] = None,  # noqa: UP045
    recipe: Annotated[Optional[Path], typer.Option(help="run.json of an earlier run; given options win.")] = None,  # noqa: UP045
    layout: Layout = None,
    split: Split = None,
    category: Categories = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep frozen features on disk.")] = True,
    engine: Annotated[str, typer.Option(help="local, or ray: features and chunks of a large set on a cluster.")] = (
        "local"
    ),
    address: Address = None,
    **options: Any,
) -> None:
    """Learn from good images."""
    from blemish.cli import fit as command

    source = context.get_parameter_source
    typed = {name: value for name, value in options.items() if getattr(source(name), "name", "") == "COMMANDLINE"}
    chosen = command.chosen(typed, recipe, set_ or [])
    command.run(data, out, chosen, layout, split, category or [], cache, engine, address)


@app.command()
def inspect(
    model: ModelPath,
    paths: Annotated[list[str], typer.Argument(help="Images or folders; with ray also manifests and URLs.")],
    maps: Annotated[Optional[Path], typer.Option(help="Folder for overlay PNGs.")] = None,  # noqa: UP045
    raw_maps: Annotated[Optional[Path], typer.Option(help="Folder for float32 .npy maps in source pixels.")] = None,  # noqa: UP045
    server_maps: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of maps as the evaluation server of MVTec AD 2 takes them."),
    ] = None,
    masks: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for PNGs, 255 where a map is above its threshold."),
    ] = None,
    labels: Annotated[
        Optional[tuple[Labels, Path]],  # noqa: UP045
        typer.Option(help="Regions for label tools: `coco FILE` or `yolo FOLDER`.", metavar="FORMAT PLACE"),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="How to print results.")] = Format.jsonl,
    fail_on_anomaly: Annotated[bool, typer.Option("--fail-on-anomaly", help="Exit 3 if one is found.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per call; 1 is fastest on a CPU.")] = 1,
    threads: Threads = None,
    engine: Annotated[str, typer.Option(help="local (= openvino), onnxruntime, reference, or ray.")] = ("local"),
    out: Annotated[str | None, typer.Option(help="ray: folder or URL of Parquet files; a stopped run resumes.")] = None,  # noqa: UP045
    address: Address = None,
    workers: Annotated[Optional[int], typer.Option(min=1, help="ray: processes; all cores if not given.")] = None,  # noqa: UP045
    max_pixels: MaxPixels = None,
    file_rate: FileRate = None,
    scale: Scale = None,
) -> int:
    """Judge images: one line each on stdout."""
    from blemish.cli import inspect as command

    if engine == "ray":
        local = {
            "--maps": maps,
            "--raw-maps": raw_maps,
            "--server-maps": server_maps,
            "--masks": masks,
            "--labels": labels,
            "--threads": threads,
            "--batch-size": None if batch_size == 1 else batch_size,
            "--format": None if format_ is Format.jsonl else str(format_),
        }
        reading = {"max_pixels": max_pixels, "file_rate": file_rate, "scale": scale}
        return command.run_ray(model, paths, out, address, workers, fail_on_anomaly, reading, local)
    spread = {"--out": out, "--address": address, "--workers": workers}
    command.refuse(spread, "without --engine ray")
    command.refuse({path: path for path in paths if "://" in path}, "without --engine ray, which reads URLs")
    files, places = [Path(path) for path in paths], (maps, raw_maps, server_maps)
    reading = {"max_pixels": max_pixels, "file_rate": file_rate, "scale": scale}
    return command.run(
        model,
        files,
        *places,
        format_.value,
        fail_on_anomaly,
        batch_size,
        threads,
        engine,
        reading,
        masks,
        labels and (labels[0].value, labels[1]),
    )


@app.command()
def evaluate(
    model: ModelPath,
    data: Annotated[str, typer.Argument(help="A data set with a test split.")],
    json_: Annotated[Optional[Path], typer.Option("--json", help="Write all figures to this file.")] = None,  # noqa: UP045
    report: Annotated[Optional[Path], typer.Option(help="Write a self-contained HTML report.")] = None,  # noqa: UP045
    layout: Layout = None,
    split: Split = None,
    category: Categories = None,
    threads: Threads = None,
    engine: EngineName = "local",
    max_pixels: MaxPixels = None,
    file_rate: FileRate = None,
    scale: Scale = None,
) -> int:
    """Metrics on the test split, with intervals."""
    from blemish.cli.evaluate import run

    reading = {"max_pixels": max_pixels, "file_rate": file_rate, "scale": scale}
    return run(model, data, json_, report, layout, split, category or [], threads, engine, reading)


@app.command()
def bench(
    data: Annotated[list[str], typer.Argument(help="A suite file (.toml), or data sets.")],
    out: Annotated[Path, typer.Option(help="Folder of cells and tables; a stopped run resumes there.")],
    methods: Annotated[Optional[list[str]], typer.Option(help="Names, or all; instead of the suite's.")] = None,  # noqa: UP045
    seeds: Annotated[Optional[list[int]], typer.Option(help="Repeatable; instead of the suite's.")] = None,  # noqa: UP045
    multi_class: Annotated[bool, typer.Option("--multi-class", help="Data sets: one model for all categories too.")] = (
        False
    ),
    page: Annotated[Optional[Path], typer.Option(help="The ledger's page; OUT/ledger.md if not given.")] = None,  # noqa: UP045
    known: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of an earlier run's tables; cells that they hold are taken over."),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Run finished cells again and compare.")] = False,
    collect: Annotated[
        bool, typer.Option("--collect", help="Run nothing: write the page from the finished cells.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at once; each learns on one core.")] = 1,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Address = None,
) -> int:
    """Methods x data sets x seeds: every cell once, with tables, tests and plots."""
    from blemish.cli.bench import run

    return run(data, out, methods or [], seeds or [], page, known, multi_class, verify, collect, jobs, engine, address)


@app.command()
def calibrate(
    model: ModelPath,
    good: Annotated[str, typer.Argument(help="Good images that the model has not learned from.")],
    false_alarm_rate: Rate = 0.05,
    confidence: Annotated[Optional[float], of_fit("confidence", "As in the model, if not given.")] = None,  # noqa: UP045
    promise_per: Annotated[Optional[PromisePer], of_fit("promise_per", "As in fit, if not given.")] = None,  # noqa: UP045
    region_rate: Annotated[Optional[float], of_fit("region_rate", "As in the model, if not given.")] = None,  # noqa: UP045
    region_per: Annotated[Optional[RegionPer], of_fit("region_per", "As in the model, if not given.")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="Where to write; the same folder if not given.")] = None,  # noqa: UP045
    max_pixels: MaxPixels = None,
    file_rate: FileRate = None,
) -> None:
    """A new threshold from good images, without refitting."""
    from blemish.cli.progress import track
    from blemish.detector import Detector
    from blemish.inspection import modelfile

    detector = Detector.load(model, max_pixels=max_pixels, file_rate=file_rate)
    modelfile.check_place(out or model, read=[good])
    detector.calibrate(
        good,
        false_alarm_rate=false_alarm_rate,
        confidence=confidence,
        promise_per=promise_per,
        region_rate=region_rate,
        region_per=region_per,
        track=track,
    )
    detector.save(out or model)
    said = {"promise": detector.promise, "region_promise": detector.region_promise}
    about.emit({"model": str(out or model), **said})


@app.command()
def extend(
    model: ModelPath,
    good: Annotated[str, typer.Argument(help="Good images of the new product.")],
    category: Annotated[str, typer.Option(help="Its name.")],
    out: Annotated[Optional[Path], typer.Option(help="Where to write; the same folder if not given.")] = None,  # noqa: UP045
    max_pixels: MaxPixels = None,
) -> None:
    """One more product for a model with a head for each; the other products stay as they are."""
    from blemish.cli.progress import track
    from blemish.detector import Detector
    from blemish.inspection import modelfile

    detector = Detector.load(model, max_pixels=max_pixels)
    modelfile.check_place(out or model, read=[good])
    detector.extend(good, category, track=track)
    detector.save(out or model)
    about.emit(
        {
            "model": str(out or model),
            "categories": detector.model.meta.data.categories,
            "promise": detector.promise,
        }
    )


@app.command()
def adapt(
    model: ModelPath,
    good: Annotated[str, typer.Argument(help="A few good images of the new station, light or patient.")],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    earlier: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="Images, folders or JSON lines of `inspect` to compare verdicts on; GOOD if not given."),
    ] = None,
    share: Annotated[float, typer.Option(help="Of the steps of training, where the method is trained.")] = 0.2,
    layout: Layout = None,
    category: Categories = None,
    max_pixels: MaxPixels = None,
    file_rate: FileRate = None,
) -> None:
    """Continue learning from a few more good images; shows which earlier verdicts change."""
    from blemish.cli.adapt import run

    run(model, good, out, earlier or [], share, layout, category or [], max_pixels, file_rate)


@app.command()
def power(
    model: ModelPath,
    good: Annotated[str, typer.Argument(help="Good images that the model has not seen.")],
    html: Annotated[Optional[Path], typer.Option(help="Write a self-contained page with plots and examples.")] = None,  # noqa: UP045
    json_: Annotated[Optional[Path], typer.Option("--json", help="Write all figures to this file.")] = None,  # noqa: UP045
    kind: Annotated[Optional[list[str]], typer.Option(help="scratch, spot or stain; repeatable, none = all.")] = None,  # noqa: UP045
    size: Annotated[Optional[list[float]], typer.Option(help="In pixels; repeatable.")] = None,  # noqa: UP045
    contrast: Annotated[Optional[list[float]], typer.Option(help="Share of white; repeatable.")] = None,  # noqa: UP045
    images: Annotated[int, typer.Option(help="Maximum number of good images used.")] = 50,
    seed: Annotated[int, typer.Option(help="The same seed gives the same probes.")] = 0,
    layout: Layout = None,
    category: Categories = None,
    threads: Threads = None,
    max_pixels: MaxPixels = None,
) -> None:
    """The smallest defects that a model would find, measured with synthetic ones."""
    from blemish.cli.power import run

    lists = (kind or [], size or [], contrast or [])
    run(model, good, html, json_, *lists, images, seed, layout, category or [], threads, max_pixels)


@app.command()
def export(
    model: ModelPath,
    out: Annotated[Path, typer.Option(help="The folder to write; new or empty.")],
    runtime: Annotated[Runtime, typer.Option(help="What is to run the graph.")] = Runtime.onnx,
    golden: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="A picture to compare programs on, beside drawn ones: a good and a defective part."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="In 8-bit integers, if that is faster and judges the same; else exit 1.")
    ] = False,
    calibration: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="int8: good images that the model has not learned from, for its ranges and threshold."),
    ] = None,
) -> None:
    """Write a model for other programs: graph, all that surrounds it in JSON, golden inputs, short programs."""
    from blemish.cli.export import run

    run(model, out, runtime.value, golden or [], int8, calibration)


@app.command()
def demo(
    data: Annotated[Optional[Path], typer.Option(help="An MVTec-style folder; solar cells if not given.")] = None,  # noqa: UP045
    out: Annotated[Path, typer.Option(help="Where report, model and pictures go.")] = Path("demo"),
    method: Annotated[str, typer.Option(help="A name from `blemish methods`.")] = "padim",
    scale: Annotated[Optional[str], of_fit("scale")] = None,  # noqa: UP045
) -> None:
    """The main job on real images: learn, calibrate, inspect, report."""
    from blemish.cli.demo import run_demo, show
    from blemish.cli.progress import track

    show(run_demo(data, out, method, options={"scale": scale} if scale else None, track=track), about.console())


app.add_typer(synthesize.app, name="synthesize")
app.add_typer(station.app, name="station")
for command in (about.methods, about.backbones, about.cache, about.doctor):
    app.command()(command)


def commands() -> dict[str, Any]:
    """The click commands by name, those of a group as `group command`; the documentation is checked against them."""

    def inside(group: Any, before: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, one in group.commands.items():
            found |= {before + name: one} if not hasattr(one, "commands") else inside(one, f"{before}{name} ")
        return found

    return inside(typer.main.get_command(app), "")
