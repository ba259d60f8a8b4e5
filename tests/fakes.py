"""A tiny backbone and tiny data, so that the contract tests take seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blemish.config import to_json
from blemish.data.synthesis.makers import MAKERS
from blemish.inspection.engines import Engine
from blemish.inspection.meta import Meta
from blemish.inspection.modelfile import Model
from blemish.inspection.open import open_model
from blemish.learning import export, observing
from blemish.learning import run as learning
from blemish.learning.backbones.base import Backbone
from blemish.learning.backbones.graph_net import GraphBackbone
from blemish.methods.base import Method
from blemish.types import Batch, FeatureSpec, Needs, Pyramid, Record

if TYPE_CHECKING:
    import torch

    from blemish.learning.training import Plan

SIZE = (48, 64)  # not square on purpose


class FakeBackbone(GraphBackbone):
    """Three levels (strides 4, 8, 16) of a random convolutional network with fixed weights."""

    def __init__(self) -> None:
        network = (Path(__file__).parent / "fake_backbone.onnx").read_bytes()
        super().__init__(network, name="fake", digest="0", layers=(0, 1, 2), strides=(4, 8, 16), mean=127.0, std=64.0)


def good_image(seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """(H, W, 3): stripes with noise; every seed another one."""
    generator = np.random.default_rng(seed)
    rows = 120 + 40 * np.sin(np.arange(size[0]) / 3)[:, None, None]
    return (rows + generator.normal(0, 6, (*size, 3))).clip(0, 255).astype(np.uint8)


def defective_image(seed: int, size: tuple[int, int] = SIZE) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The same with a bright spot, and its mask."""
    image = good_image(seed, size)
    mask = np.zeros(size, bool)
    h, w = size
    mask[h // 4 : h // 4 + max(h // 5, 1), w // 2 : w // 2 + max(w // 6, 1)] = True
    image[mask] = 255
    return image, mask


def arrays_of(backbone: Backbone, images: list[NDArray[np.uint8]], image: bool = True) -> Batch:
    """Images of one size as a method sees them."""
    stack = np.stack(images)
    x = backbone.normalised(stack) if image else None
    ids = tuple(map(str, range(len(images))))
    return Batch(size=stack.shape[1:3], pyramid=Pyramid(backbone.maps(stack)), x=x, ids=ids)


def batch_of(backbone: Backbone, images: list[NDArray[np.uint8]], image: bool = True) -> Batch:
    """The same in tensors."""
    from blemish.methods.torch_base import TorchMethod

    return TorchMethod.converted(arrays_of(backbone, images, image))


class FakeSamples:
    """Images in memory as training samples (`blemish.learning.training.Samples`)."""

    def __init__(self, backbone: Backbone, images: list[NDArray[np.uint8]], needs: Needs) -> None:
        self.backbone, self.images, self.needs = backbone, images, needs
        self.maker = MAKERS[needs.twin](()) if needs.twin else None

    def __len__(self) -> int:
        return len(self.images)

    def maps_of(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        return self.backbone.maps_of(x)

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> Batch:
        chosen = [self.images[i] for i in indices]
        batch = batch_of(self.backbone, chosen, self.needs.image)
        if generator is None or self.maker is None:
            return batch
        import torch

        seeds = torch.randint(4, (len(chosen),), generator=generator).tolist()
        twins = [self.maker(x, np.random.default_rng([i, s])) for x, i, s in zip(chosen, indices, seeds, strict=True)]
        pyramid = batch_of(self.backbone, [x for x, _ in twins]).pyramid
        return replace(batch, twin=pyramid, mask=torch.from_numpy(np.stack([mask for _, mask in twins])))


def learn(method: Method, backbone: Backbone, images: list[NDArray[np.uint8]], plan: Plan | None = None) -> Plan | None:
    """Everything from the first look to the last step, without files; the plan, with its report, of a method in
    PyTorch."""
    needs = method.wants(method.config)
    if method.arrays == "numpy":
        observing.train(method, [arrays_of(backbone, images[i : i + 16]) for i in range(0, len(images), 16)])
        return None
    from blemish.learning import training

    scenes = [good_image(1000 + i, method.size) for i in range(8)]
    plan = plan or training.Plan()
    plan.scenes = plan.scenes or FakeSamples(backbone, scenes, needs)
    return training.learn(method, FakeSamples(backbone, images, needs), plan=plan)


def beside(mask: NDArray[np.bool_], peak: tuple[int, ...], near: int) -> bool:
    """Whether a place of an array lies at a mask."""
    return bool(mask[tuple(slice(max(at - near, 0), at + near + 1) for at in peak)].any())


@cache
def trunk_graph(image: bool) -> bytes:
    """The graph of the tiny backbone, at the tiny size."""
    return FakeBackbone().graph(SIZE, image=image)


class ImageWorld:
    """Images with a planted spot, behind the tiny backbone: how the contract tests see a method of images."""

    size: tuple[int, ...] = SIZE
    sizes = {"square": (64, 64), "tall": (96, 32)}
    near = 12  # a peak so far from the defect is still at it

    def __init__(self) -> None:
        self.backbone = FakeBackbone()

    def spec(self, size: tuple[int, ...]) -> FeatureSpec:
        return self.backbone.spec(size)

    def good(self, seed: int, size: tuple[int, ...] = SIZE) -> NDArray[Any]:
        return good_image(seed, size)

    def defective(self, seed: int, size: tuple[int, ...] = SIZE) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        return defective_image(seed, size)

    def beside(self, sample: NDArray[Any], mask: NDArray[np.bool_], peak: tuple[int, ...]) -> bool:
        return beside(mask, peak, self.near)

    def constant(self, size: tuple[int, ...]) -> NDArray[Any]:
        return np.full((*size, 3), 90, np.uint8)

    def batch(self, samples: list[NDArray[Any]]) -> Batch:
        return arrays_of(self.backbone, samples)

    def learn(self, method: Method, samples: list[NDArray[Any]], plan: Plan | None = None) -> Plan | None:
        return learn(method, self.backbone, samples, plan)

    def samples(self, method: Method, samples: list[NDArray[Any]]) -> FakeSamples:
        return FakeSamples(self.backbone, samples, method.wants(method.config))

    def head(self, method: Method) -> bytes:
        return export.export_head(method, trunk=self.trunk(method))

    def trunk(self, method: Method) -> bytes:
        return trunk_graph(method.wants(method.config).image)

    def graph(self, method: Method) -> bytes:
        return export.merge(self.trunk(method), self.head(method))

    def reference(self, method: Method) -> Engine:
        return export.reference_engine(self.backbone, method)


LENGTH = (96,)
LEADS = 2


def good_signal(seed: int, size: tuple[int, ...] = LENGTH) -> NDArray[np.float32]:
    """(K, L): beats of a sharp and a slow wave, each lead in a form of its own, with noise; every seed another one."""
    at = np.arange(size[0])
    waves = np.stack([3 * np.exp(-(((at % 24) - 8) ** 2) / 4) + np.sin(at / 3.8), np.cos(at / 3.8)])
    return (waves + np.random.default_rng(seed).normal(0, 0.1, waves.shape)).astype(np.float32)


def defective_signal(seed: int, size: tuple[int, ...] = LENGTH) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The same with a stretch upside down, and its mask."""
    x = good_signal(seed, size)
    mask = np.zeros(size, bool)
    mask[size[0] // 2 : size[0] // 2 + 16] = True
    x[:, mask] = 2 * np.sin(np.arange(16) * 1.9)
    return x, mask


class WindowsInMemory:
    """Signals in memory as training samples."""

    def __init__(self, windows: list[NDArray[np.float32]]) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> Batch:
        return signals_of([self.windows[i] for i in indices])


def signals_of(windows: list[NDArray[np.float32]]) -> Batch:
    """Windows of one length as a method sees them."""
    from blemish.methods.torch_base import TorchMethod

    x = np.stack(windows)
    return TorchMethod.converted(Batch(size=tuple(x.shape[2:]), x=x, ids=tuple(map(str, range(len(windows))))))


class SignalWorld:
    """Signals with a planted defect, without a backbone: how the contract tests see a method of signals."""

    size: tuple[int, ...] = LENGTH
    sizes = {"square": (64,), "tall": (120,)}
    near = 8

    def spec(self, size: tuple[int, ...]) -> FeatureSpec:
        return FeatureSpec((), (), (), inputs=LEADS)

    def good(self, seed: int, size: tuple[int, ...] = LENGTH) -> NDArray[Any]:
        return good_signal(seed, size)

    def defective(self, seed: int, size: tuple[int, ...] = LENGTH) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        return defective_signal(seed, size)

    def beside(self, sample: NDArray[Any], mask: NDArray[np.bool_], peak: tuple[int, ...]) -> bool:
        return beside(mask, peak, self.near)

    def constant(self, size: tuple[int, ...]) -> NDArray[Any]:
        return np.zeros((LEADS, *size), np.float32)

    def batch(self, samples: list[NDArray[Any]]) -> Batch:
        return signals_of(samples)

    def learn(self, method: Method, samples: list[NDArray[Any]], plan: Plan | None = None) -> Plan:
        from blemish.learning import training

        return training.learn(method, WindowsInMemory(samples), plan=plan)

    def samples(self, method: Method, samples: list[NDArray[Any]]) -> WindowsInMemory:  # noqa: ARG002
        return WindowsInMemory(samples)

    def head(self, method: Method) -> bytes:
        return export.export_plain(method)

    def graph(self, method: Method) -> bytes:
        return export.export_plain(method)

    def reference(self, method: Method) -> Engine:
        return export.plain_engine(method)


COUNT = (900,)


def good_cloud(seed: int, size: tuple[int, ...] = COUNT) -> NDArray[np.float32]:
    """(N, 6): a waved sheet as a model sees it, about 1 across, every seed scanned anew; up is out of it."""
    generator = np.random.default_rng(seed)
    side = round(size[0] ** 0.5)
    u, v = (np.stack(np.divmod(np.arange(size[0]), side)) + generator.uniform(0.2, 0.8, (2, size[0]))) * 0.7 / side
    z = 0.03 * np.sin(20 * u) + generator.normal(0, 0.0005, size)
    return np.stack([u, v, z, 0 * z, 0 * z, 0 * z + 1], 1).astype(np.float32)


def defective_cloud(seed: int, size: tuple[int, ...] = COUNT) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The same with a knob, and which points lie on it."""
    x = good_cloud(seed, size)
    distance = np.hypot(x[:, 0] - 0.3, x[:, 1] - 0.4)
    x[:, 2] += 0.06 * np.clip(1 - (distance / 0.08) ** 2, 0, 1)
    return x, distance < 0.08


class CloudWorld:
    """Point clouds with a planted defect: how the contract tests see a method of points."""

    size: tuple[int, ...] = COUNT
    sizes = {"square": (784,), "tall": (1156,)}
    near = 0.06  # in the part's unit

    def spec(self, size: tuple[int, ...]) -> FeatureSpec:
        return FeatureSpec((), (), (), inputs=6, spacing=0.6 * 0.7 / size[0] ** 0.5)

    def good(self, seed: int, size: tuple[int, ...] = COUNT) -> NDArray[Any]:
        return good_cloud(seed, size)

    def defective(self, seed: int, size: tuple[int, ...] = COUNT) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        return defective_cloud(seed, size)

    def beside(self, sample: NDArray[Any], mask: NDArray[np.bool_], peak: tuple[int, ...]) -> bool:
        return bool(np.linalg.norm(sample[mask, :3] - sample[peak[0], :3], axis=1).min() <= self.near)

    def constant(self, size: tuple[int, ...]) -> NDArray[Any]:
        x = good_cloud(0, size)
        x[:, 2] = 0
        return x

    def batch(self, samples: list[NDArray[Any]]) -> Batch:
        x = np.stack(samples)
        return Batch(size=(x.shape[1],), x=x, ids=tuple(map(str, range(len(samples)))))

    def learn(self, method: Method, samples: list[NDArray[Any]]) -> None:
        observing.train(method, [self.batch([sample]) for sample in samples])

    def engine(self, method: Method) -> Engine:
        """What runs the method's model without torch."""
        meta = Meta("any", {}, "f32", graph=False, engine=method.needs.engine, config=to_json(method.config))
        state = learning.tensors(method.fitted_state(), method.config)
        return open_model(Model(meta, {}, state, b"", {}, {}))

    def reference(self, method: Method) -> Engine:
        return export.plain_engine(method)


WORLDS = {"pyramid": ImageWorld, "image": ImageWorld, "signal": SignalWorld, "points": CloudWorld}
"""By what a method takes (`Needs.source`)."""


def write_images(folder: Path, count: int, size: tuple[int, int] = SIZE, first: int = 0) -> list[Record]:
    """`count` good PNGs in a folder, as training records."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i in range(first, first + count):
        path = folder / f"{i:03d}.png"
        Image.fromarray(good_image(i, size)).save(path)
        records.append(Record(id=path.name, path=path))
    return records


def write_mvtec(root: Path, train: int = 24, test: int = 4) -> Path:
    """A tiny category in MVTec AD's layout, with one defect type and its masks."""
    from PIL import Image

    write_images(root / "train" / "good", train)
    write_images(root / "test" / "good", test, first=1000)
    for folder in (root / "test" / "spot", root / "ground_truth" / "spot"):
        folder.mkdir(parents=True)
    for i in range(test):
        image, mask = defective_image(2000 + i)
        Image.fromarray(image).save(root / "test" / "spot" / f"{i:03d}.png")
        Image.fromarray((mask * 255).astype(np.uint8)).save(root / "ground_truth" / "spot" / f"{i:03d}_mask.png")
    return root
