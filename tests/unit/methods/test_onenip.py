"""OneNIP: counts, what the prompt decides, what is restored, what the refiner adds, and where prompts come from."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import openvino
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.data.synthesis.makers import MAKERS
from blemish.errors import ConfigError, DataError
from blemish.evaluation.metrics import average_precision
from blemish.inspection import engines, graph_parts
from blemish.inspection.engines import open_engine
from blemish.learning import export, observing, training
from blemish.learning.heads import Vote
from blemish.learning.sampler import in_order
from blemish.methods.onenip import Config, OneNIP, PromptedReconstructor
from blemish.nn.bank import FeatureBank
from blemish.nn.losses import dice_loss
from blemish.nn.masked import GridPosition, PromptLayer, neighbour_mask
from blemish.nn.refiner import Refiner
from blemish.ops.anchors import Anchors
from blemish.ops.draws import Draws
from blemish.types import Batch, FeatureSpec, Pyramid
from tests import reconstructors
from tests.fakes import FakeBackbone
from tests.products import COUNT, SIZE, Products, damaged, product
from tests.reconstructors import randn, trainable

PAPER = {**reconstructors.PAPER, "refiner_width": 128, "dice_at": "image", "attention_dropout": 0.1}
TOY = {**reconstructors.TOY, "until": "steps", "steps": 100, "refiner_width": 16}


def test_the_papers_size_counts_what_the_paper_has() -> None:
    grids = tuple((224 // 2 ** (i + 1),) * 2 for i in range(4))
    method = OneNIP(Config(**PAPER), FeatureSpec((0, 1, 2, 3), (24, 32, 56, 160), grids), (224, 224))
    assert trainable(method) == 8_372_625
    assert trainable(method.refiner) == 592_769
    small = Config(**{**TOY, "encoders": 1, "decoders": 1})
    net = PromptedReconstructor(small, 5, (4, 4)).eval()
    x, prompts = randn(6, 16, 5), randn(3, 16, 5, seed=1)
    assert net(x, prompts).shape == (6, 16, 5)  # 2 B in training
    alone = net.decode(net.encoder(x[4:5]), net.encoder(prompts[1:2]))
    torch.testing.assert_close(net(x, prompts)[4:5], alone)  # and prompts repeat in order
    assert Refiner(5, 8)(randn(2, 5, 14, 14)).shape == (2, 1, 56, 56)


def test_dice_is_that_of_the_formula() -> None:
    empty, ones = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    ones[..., :2, :3] = 1  # six of them
    assert dice_loss(empty, empty).item() == 0
    assert dice_loss(ones, ones).item() == pytest.approx(1 - 7 / 13)
    assert dice_loss(empty, ones).item() == pytest.approx(1 - 1 / 7)
    both = dice_loss(torch.cat([empty, empty]), torch.cat([empty, ones]))
    assert both.item() == pytest.approx((1 - 1 / 7) / 2)  # image by image


def test_the_image_reads_the_prompt_in_both_directions_only() -> None:
    torch.manual_seed(0)
    both, one = PromptLayer(8, 16, 2, 0.0).eval(), PromptLayer(8, 16, 2, 0.0, both=False).eval()
    one.load_state_dict(both.state_dict(), strict=False)
    position, mask = GridPosition((4, 4), 8)(), neighbour_mask((4, 4), (3, 3))
    prompt, image = randn(2, 16, 8), randn(2, 16, 8, seed=1)
    left, right = both(prompt, image, position, mask), one(prompt, image, position, mask)
    assert torch.equal(left[0], right[0])
    assert torch.equal(right[1], image)
    assert not torch.equal(left[1], image)
    assert both.of_prompt is not None
    assert both.answered is not None
    for part in (both.of_prompt.out.weight, both.of_prompt.out.bias):
        torch.nn.init.zeros_(part)
    silent = both(prompt, image, position, mask)
    torch.testing.assert_close(silent[1], both.answered.norm(image))  # up to the norm


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_both_streams_are_normed_before_they_are_read_or_after_they_are_written(norm: Any) -> None:
    torch.manual_seed(0)
    layer = PromptLayer(8, 16, 2, 0.0, norm).eval()
    prompt, image = 100 * randn(2, 16, 8), 100 * randn(2, 16, 8, seed=1)
    received: list[tuple[Tensor, ...]] = []
    for part in (layer.of_image, layer.of_prompt):
        assert part is not None
        part.register_forward_pre_hook(lambda _, given: received.append(given))
    nowhere = torch.zeros(16, 8)
    with torch.no_grad():
        left, right = layer(prompt, image, nowhere, None)
    if norm == "pre":
        expected = [F.layer_norm(x, (8,)) for x in (prompt, image, image, left)]
        assert max(float((left - prompt).abs().max()), float((right - image).abs().max())) < 10  # they pass as they are
    else:
        expected = [prompt, image, image, left]
        for x in (left, right):
            torch.testing.assert_close(x, F.layer_norm(x, (8,)), rtol=1e-3, atol=1e-3)
    for found, wanted in zip((*received[0][:2], received[1][0], received[1][2]), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_head_reads_what_has_been_normed() -> None:
    net = PromptedReconstructor(Config(**{**TOY, "norm": "pre"}), 5, (4, 4)).eval()
    read: list[Tensor] = []
    net.last.register_forward_pre_hook(lambda _, given: read.extend(given[1:]))
    net(randn(2, 16, 5), randn(2, 16, 5, seed=1))
    placed, image = read
    torch.testing.assert_close(image, F.layer_norm(image, image.shape[2:]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(placed, image + net.encoder.position())


@pytest.mark.parametrize("balanced", [True, False])
def test_products_are_drawn_as_the_configuration_says(balanced: bool, backbone: FakeBackbone) -> None:
    method = OneNIP(Config(**{**TOY, "balanced": balanced}), backbone.spec(SIZE), SIZE)
    assert [phase.balanced for phase in method.phases()] == [balanced]


def test_gradient_reaches_what_the_image_reads_the_prompt_by() -> None:
    net = PromptedReconstructor(Config(**TOY), 5, (4, 4))
    net(randn(2, 16, 5), randn(2, 16, 5, seed=1)).square().sum().backward()
    grads = [layer.of_prompt.value.weight.grad for layer in net.decoder]
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads)


# ----------------------------------------------------------------------------------------------------------- prompts
def test_a_prompt_is_another_image_of_the_category() -> None:
    bank = FeatureBank(8, seed=0)
    names = [f"{k}/{i}" for k in range(2) for i in range(4)]
    values = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 2, 3, 3)
    bank.add(values, names, [0] * 4 + [1] * 4)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([bank.draw(names, [0] * 4 + [1] * 4, generator)[:, 0, 0, 0] for _ in range(60)], 1)
    for i, row in enumerate(drawn.tolist()):
        others = {float(j) for j in range(8) if j // 4 == i // 4 and j != i}
        assert set(row) == others
    lonely = FeatureBank(8, seed=0)
    lonely.add(values[:1], ["0/0"], [0])
    assert float(lonely.draw(["0/0"], [0], generator).max()) == 0  # there is no other


def test_the_bank_is_bounded_and_knows_no_order() -> None:
    names, x = [f"{i}" for i in range(40)], randn(40, 2, 3, 3)
    whole, one, two = FeatureBank(6, 1), FeatureBank(6, 1), FeatureBank(6, 1)
    whole.add(x, names, [0] * 40)
    two.add(x.flip(0)[:25], names[::-1][:25], [0] * 25)
    one.add(x.flip(0)[25:], names[::-1][25:], [0] * 15)
    one.merge(two)
    assert [e.name for e in whole.kept[0]] == [e.name for e in one.kept[0]]
    assert len(whole.kept[0]) == 6
    assert [e.name for e in whole.kept[0]] != names[:6]
    torch.testing.assert_close(whole.medoids(torch.ones(2)), one.medoids(torch.ones(2)))
    other = FeatureBank(6, 2)
    other.add(x, names, [0] * 40)
    assert {e.name for e in other.kept[0]} != {e.name for e in whole.kept[0]}


def test_the_medoid_is_nearest_to_the_middle_of_its_category() -> None:
    bank = FeatureBank(8, 0)
    values = torch.tensor([0.0, 1.0, 9.0, 100.0, 104.0, 105.0]).view(6, 1, 1, 1).expand(6, 1, 2, 2)
    bank.add(values, list("abcdef"), [0, 0, 0, 2, 2, 2])
    found = bank.medoids(torch.ones(1))[:, 0, 0, 0].tolist()
    assert found[0] == 1  # of 10 / 3
    assert found[2] == 104  # of 103
    assert found[1] in values.flatten().tolist()  # nobody's category gets one of them


def test_made_defects_are_of_both_kinds() -> None:
    maker = MAKERS["mixed"](())
    image = product(0, 0)
    alike = 0
    for seed in range(24):
        changed, mask = maker(image, np.random.default_rng(seed))
        assert mask.any()
        assert (changed != image).any()
        pasted, pasted_mask = MAKERS["texture"](())(image, _after_a_lot(seed))
        alike += bool((pasted == changed).all() and (pasted_mask == mask).all())
    assert 6 <= alike <= 18


def _after_a_lot(seed: int) -> np.random.Generator:
    generator = np.random.default_rng(seed)
    generator.integers(2)
    return generator


# ------------------------------------------------------------------------------------------------------ a drawn world
@cache
def learned(**options: Any) -> OneNIP:
    """A model of all three products; twins show a piece of the next product."""
    backbone = FakeBackbone()
    method = OneNIP(Config(**{**TOY, **options}), backbone.spec(SIZE), SIZE)
    training.learn(method, Products(backbone, twins=True), held=Products(backbone, 2, first=50, twins=True))
    return method


@cache
def unseen() -> Batch:
    return Products(FakeBackbone(), 4, first=100, twins=True).all


def rebuilt(method: OneNIP, tokens: Tensor, prompts: Tensor) -> Tensor:
    with torch.no_grad():
        return method.network.decode(method.network.encoder(tokens), prompts)


def apart(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).norm(dim=2)


def inside() -> Tensor:
    """(B, N): tokens that lie in a defect."""
    return F.avg_pool2d(unseen().mask.float()[:, None], TOY["stride"]).flatten(1) == 1


@pytest.mark.learns
def test_the_prompt_decides_what_is_rebuilt() -> None:
    method, batch = learned(), unseen()
    assert method.prompts.shape == (COUNT, 64, TOY["width"])
    tokens, kind = method.tokens(batch.pyramid.maps), batch.category
    with_its_prompt = apart(rebuilt(method, tokens, method.prompts[kind]), tokens).mean()
    with_wrong_prompt = apart(rebuilt(method, tokens, method.prompts[(kind + 1) % COUNT]), tokens).mean()
    nothing = apart(rebuilt(method, tokens, torch.zeros(1, *method.prompts.shape[1:])), tokens).mean()
    with torch.no_grad():
        another = method.network.encoder(tokens)  # unseen images of the same products, in another order
    order = torch.cat([torch.arange(len(kind))[COUNT:], torch.arange(COUNT)])  # the next one of the same product
    assert torch.equal(kind[order], kind)
    same = apart(rebuilt(method, tokens, another[order]), tokens).mean()
    assert with_wrong_prompt > 1.3 * with_its_prompt
    assert nothing > 1.1 * with_its_prompt
    assert same < 1.1 * with_its_prompt


@pytest.mark.learns
def test_defects_are_restored_and_not_copied() -> None:
    batch, where = unseen(), inside()
    errors = {}
    for restoration in (True, False):
        method = learned(refiner=False, restoration=restoration)
        good, bad = method.tokens(batch.pyramid.maps), method.tokens(batch.twin.maps)
        out = rebuilt(method, bad, method.prompts[batch.category])
        errors[restoration] = float(apart(out, good)[where].mean())
        assert errors[restoration] < 0.8 * float(apart(bad, good)[where].mean())
        assert errors[restoration] < 0.8 * float(apart(out, bad)[where].mean())
    assert errors[True] < errors[False]


def map_precision(method: OneNIP) -> float:
    batch = replace(unseen(), pyramid=unseen().twin)
    with torch.no_grad():
        anomaly_map = method(batch).anomaly_map
    return average_precision(batch.mask.numpy().ravel(), anomaly_map.numpy().ravel())


@pytest.mark.learns
def test_restoration_and_refiner_find_defects_better() -> None:
    plain = map_precision(learned(refiner=False, restoration=False))
    restoring, whole = map_precision(learned(refiner=False)), map_precision(learned())
    assert plain <= restoring
    assert restoring + 0.1 < whole


@pytest.mark.slow
def test_the_map_is_the_stated_mixture() -> None:
    method, batch = learned(), replace(unseen(), pyramid=unseen().twin)
    with torch.no_grad():
        error = method._apart(batch)
        fine = method.fine_maps([method.refiner(error.abs())[:, 0]]).sigmoid()
        coarse = method.level_maps([error.norm(dim=1)])
        out = method.predict(batch)
    torch.testing.assert_close(out.anomaly_map, 0.5 * coarse + 0.5 * method.balance * fine)
    means = F.avg_pool2d(out.anomaly_map[:, None], TOY["stride"], 1).flatten(1)
    torch.testing.assert_close(out.score, means.amax(1))
    labels = batch.mask.numpy().ravel()
    assert average_precision(labels, fine.numpy().ravel()) > average_precision(labels, coarse.numpy().ravel())


def test_the_balance_lies_between_held_good_images_and_their_twins(backbone: FakeBackbone) -> None:
    method = OneNIP(Config(**TOY), backbone.spec(SIZE), SIZE)
    samples = Products(backbone, 2, twins=True)
    observing.train(method, in_order(samples))
    method.eval()
    good, damaged = samples.all, replace(samples.all, pyramid=samples.all.twin)
    with torch.no_grad():
        method.measure([good])
        far = [method._apart(batch).norm(dim=1) for batch in (good, damaged)]
        for known in ([good], [good, good]):
            method.settle(known)
            lowest, highest = min(x.min() for x in far), max(x.max() for x in far)
            torch.testing.assert_close(method.balance, (highest + lowest) / 2)
        method.settle([replace(good, twin=None)])
        torch.testing.assert_close(method.balance, (far[0].max() + far[0].min()) / 2)


@pytest.mark.slow
def test_several_prompts_want_a_category_and_one_does_not(backbone: FakeBackbone) -> None:
    batch = replace(unseen(), category=None)
    with pytest.raises(DataError, match="category"):
        learned()(batch)
    one = OneNIP(Config(**{**TOY, "steps": 2, "prompt": "any"}), backbone.spec(SIZE), SIZE)
    training.learn(one, Products(backbone, twins=True))
    assert one.prompts.shape[0] == 1
    assert torch.equal(one(batch).score, one(unseen()).score)
    assert OneNIP.wants(Config()).category
    assert not OneNIP.wants(one.config).category


def test_without_restoration_and_refiner_no_defect_is_made(backbone: FakeBackbone) -> None:
    config = Config(**{**TOY, "steps": 2, "restoration": False, "refiner": False})
    assert OneNIP.wants(config).twin is None
    method = OneNIP(config, backbone.spec(SIZE), SIZE)
    plan = training.learn(method, Products(backbone, 2))
    assert set(plan.report[0].last) == {"rebuild"}


@pytest.mark.parametrize(("where", "cells"), [("grid", 16), ("image", 64)])
def test_masks_are_compared_on_the_refiners_grid_or_by_the_pixel(
    where: Any, cells: int, backbone: FakeBackbone
) -> None:
    """A refiner that says 1 everywhere has a Dice by hand: it counts the cells."""
    method = OneNIP(Config(**{**TOY, "stride": 16, "dice_at": where}), backbone.spec(SIZE), SIZE)
    batch = Products(backbone, 1, twins=True).all
    method.refiner.forward = lambda errors: torch.full((len(errors), 1, 16, 16), 99.0)  # type: ignore[method-assign]
    total, bad = cells**2, cells**2 / 16  # a defect covers a sixteenth of the image, and whole cells
    expected = (1 - 1 / (total + 1) + 1 - (bad + 1) / (total + bad + 1)) / 2
    assert float(method._dice(torch.zeros(6, 16, 24), batch)) == pytest.approx(expected, rel=1e-5)


def voting(batch: Batch) -> Vote:
    """Who tells the products of a batch apart."""
    assert batch.pyramid is not None
    level = batch.pyramid.maps[2].numpy()
    anchors = Anchors(level.mean((0, 2, 3)), level.std((0, 2, 3)), count=4)
    anchors.add([level[np.asarray(batch.category) == k] for k in range(COUNT)], Draws(0))
    return Vote(anchors, 2)


@pytest.mark.slow
def test_networks_go_by_the_vote_in_front_of_the_border(backbone: FakeBackbone) -> None:
    """The two parts that an engine cuts the head into, one behind the other, are the whole."""
    method, batch = learned(), unseen()
    head = export.export_head(method, voting(batch))
    core = openvino.Core()
    whole, cut = core.read_model(head), graph_parts.short_and_exact(core.read_model(head))
    assert [number_format for _, number_format in cut] == ["bf16", "f32"]
    assert batch.pyramid is not None
    maps = [m[:1].numpy() for m in batch.pyramid.maps]
    (expected,) = engines._chained(engines._compile(core, [(whole, "f32")], 1))
    expected.infer(maps)
    short, exact = engines._chained(engines._compile(core, [(part, "f32") for part, _ in cut], 1))
    short.infer(maps)
    exact.infer()
    assert len(expected.model_outputs) == 4
    for i in range(4):
        got = exact.get_output_tensor(i).data
        np.testing.assert_allclose(got, expected.get_output_tensor(i).data, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_graph_takes_the_prompt_that_the_vote_elects(backbone: FakeBackbone) -> None:
    method, vote = learned(), voting(unseen())
    anchors = vote.anchors
    graph = export.merge(backbone.graph(SIZE), export.export_head(method, vote))
    images = np.stack([damaged(k, 200)[0] for k in range(COUNT)])
    elected = anchors(backbone.maps(images)[2])[0].argmax(1)
    assert elected.tolist() == list(range(COUNT))
    with torch.no_grad():
        expected = method(Batch(size=SIZE, pyramid=Pyramid(backbone.maps(images)), category=elected))
    for name in ("openvino", "onnxruntime"):
        got = open_engine(graph, name, batch=len(images))(images)[1]
        np.testing.assert_allclose(got, expected.anomaly_map.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"batch": 1},
        {"rate": 0},
        {"width": 20, "heads": 8},
        {"jitter": -1},
        {"dropout": 1.0},
        {"fusion": 1.5},
        {"kept": 0},
        {"dice": -1},
    ],
)
def test_options_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**bad)


def test_a_grid_that_the_window_covers_is_refused(backbone: FakeBackbone) -> None:
    with pytest.raises(ConfigError, match="nothing to look at"):
        OneNIP(Config(neighbours=9), backbone.spec(SIZE), SIZE)
