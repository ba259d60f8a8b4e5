"""What the page of other backbones says to type is typed, with tiny networks in place of the real ones."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from blemish import methods
from blemish.cli import main
from blemish.evaluation.bench import suite
from tests import tiny_networks
from tests.docs.pages import HOWTO, of
from tests.fakes import write_images, write_mvtec
from tests.tiny import shortened

(PAGE,) = (page for page in HOWTO if page.stem == "other_backbones")
STANDS_IN = {
    "vit_small_patch14_dinov2.lvd142m": "vit_tinytest_patch14_dinov2",
    "vit_small_patch16_224.dino": "vit_tinytest_patch16",
    "wide_resnet50_2.tv_in1k": "wide_resnet_tinytest",
    "resnet50.tv_in1k": "wide_resnet_tinytest",
    "tf_efficientnet_b4.aa_in1k": "test_efficientnet",  # timm's own
}
FILES = {"dinov2_small": "vit_tinytest_patch14_dinov2", "dino_small": "vit_tinytest_patch16"}
FILES["wide_resnet50_2"] = "wide_resnet_tinytest"
SMALLER = {"--image-size": "112x64", "channels=550": "channels=20", "--layer 11": "--layer 3"}
COMMANDS = [
    line
    for block in of(PAGE, "text")
    for line in block.splitlines()
    if line.startswith(("blemish fit", "blemish eval"))
]
ROWS = re.findall(r"^\| \[(\w+)\].*\| `(--backbone .+?)` \|$", PAGE.read_text(encoding="utf-8"), re.M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are typed: files of weights and folders of pictures have the page's names."""
    folder = tmp_path_factory.mktemp("typed")
    for file, name in FILES.items():
        tiny_networks.written(folder, name).rename(folder / f"{file}.safetensors")
    for name in {*STANDS_IN.values()}:
        save_file(
            {k: v.contiguous() for k, v in tiny_networks.made(name).state_dict().items()}, folder / f"{name}.file"
        )
    write_images(folder / "good", 6, (64, 112))
    for category in ("bottle", "cable"):
        write_mvtec(folder / "mvtec" / category, train=6, test=2)
    return folder


def smaller(line: str, method: str) -> list[str]:
    """The command with tiny networks, a small input, and few steps."""
    for real, tiny in STANDS_IN.items():
        line = line.replace(real, tiny)
    words = shlex.split(
        line.replace("--layer 11", SMALLER["--layer 11"]).replace("channels=550", SMALLER["channels=550"])
    )
    if "--image-size" in words:
        words[words.index("--image-size") + 1] = SMALLER["--image-size"]
    else:
        words += ["--image-size", SMALLER["--image-size"]]
    brief = shortened(methods.get(method).brief, 2)
    return [*words, "--calibration", "none", *(f"--set={k}={v}" for k, v in brief.items() if not isinstance(v, tuple))]


def typed(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0, words


def test_the_page_has_what_is_typed_here() -> None:
    assert len(COMMANDS) == 5
    assert len(ROWS) == 8
    names = {shlex.split(words)[1] for _, words in ROWS} | set(re.findall(r"backbone (\w+\.\w+)", "\n".join(COMMANDS)))
    assert names == set(STANDS_IN)
    assert {name for name in names if not timm.is_model(name)} == set()


@pytest.mark.slow
def test_commands_of_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for line in COMMANDS:
        words = shlex.split(line)[1:]
        typed(smaller(line, words[words.index("--method") + 1])[1:] if words[0] == "fit" else words)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "words"), ROWS, ids=[method for method, _ in ROWS])
def test_settings_of_papers(method: str, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    chosen = smaller(words, method)
    weights = folder / f"{chosen[1]}.safetensors"
    if not weights.is_file():
        weights.write_bytes((folder / f"{chosen[1]}.file").read_bytes())
    data = "mvtec" if "--multi-class" in words else "good"
    typed(["fit", data, "--method", method, "--weights", str(weights), "--out", f"{method}.blemish", *chosen])


@pytest.mark.slow
def test_the_suite_of_the_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cells run in processes of their own, so that the network is one that timm has: its tiny ResNet."""
    monkeypatch.chdir(folder)
    (text,) = of(PAGE, "toml")
    save_file(
        {k: v.contiguous() for k, v in tiny_networks.made("test_resnet").state_dict().items()}, "test.safetensors"
    )
    text = text.replace("wide_resnet50_2.tv_in1k", "test_resnet").replace(
        "wide_resnet50_2.safetensors", "test.safetensors"
    )
    text = re.sub(r'"\d+sq"', '"64x64"', text).replace("seeds = [0, 1, 2]", "seeds = [0]")
    text = text.replace('name = "rd"', 'name = "rd"\noptions = { steps = 2, embedding = 8 }')
    assert tomllib.loads(text)["fit"]["backbone"] == "test_resnet"
    Path("mvtec.toml").write_text(text, encoding="utf-8")
    assert len(list(suite.read(Path("mvtec.toml")).cells())) == 4
    typed(["bench", "mvtec.toml", "--out", "mvtec_cells"])
    said = json.loads(capsys.readouterr().out)
    assert (said["cells"], said["finished"], said["failed"]) == (4, 4, 0)
