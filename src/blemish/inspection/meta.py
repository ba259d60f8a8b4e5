"""The description of a model: typed here, JSON in `model.json`. Fields that earlier versions did not write have
defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Self

from blemish.data import registry
from blemish.errors import ModelFileError
from blemish.types import PhaseReport


@dataclass(frozen=True)
class BackboneMeta:
    """The frozen network in front of a method; without one `name` is its input and `layers` are none."""

    name: str
    identity: str  # name, digest of the weights and levels: equal ones give equal features
    layers: tuple[int, ...] = ()
    weights_sha256: str = ""
    licence: str = ""  # of the weights, as far as it is known; a note


@dataclass(frozen=True)
class DataMeta:
    """What a model has learned from."""

    good_images: int = 0  # learned from or held out
    learned_from: int = 0
    ids_sha256: str = ""  # of the records' ids
    content_ids: tuple[str, ...] = ()  # see `data.identity`
    units: tuple[str, ...] = ()  # digests of the groups that records were said to belong to
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class VoteMeta:
    """How a multi-class model routes; lists have one entry for each category."""

    level: int  # of the features
    anchors: int  # of a category
    learned_from: tuple[int, ...]
    held_out: tuple[int, ...]
    names_read: int  # images whose category was read


@dataclass(frozen=True)
class Adapted:
    """One adaptation to a new station."""

    good_images: int
    learned_from: int
    share: float  # of the steps of training
    training: tuple[PhaseReport, ...] = ()


@dataclass(frozen=True)
class Meta:
    """See the module. `kind` is the modality's name, `preprocess` the plan of its preprocessing as JSON."""

    method: str
    preprocess: dict[str, Any]
    precision: str  # number format to run in
    kind: str = registry.DEFAULT
    graph: bool = True  # False: the method cannot be one graph, and `engine` runs it
    engine: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    training: tuple[PhaseReport, ...] = ()
    backbone: BackboneMeta = BackboneMeta("", "")
    weights: str | None = None  # the local file that was asked for
    views: tuple[str, ...] = ()  # of good images that were learned too: those asked for, and those they suggested
    inspected: float | None = None  # share of the picture inside the region of interest
    data: DataMeta = DataMeta()
    device: str = "cpu"  # where it was learned, with the card's name; a note
    features_device: str = "cpu"  # where the features were computed that it learned from
    software: dict[str, str] = field(default_factory=dict)
    fit_seconds: float = 0.0
    vote: VoteMeta | None = None
    chosen: tuple[dict[str, Any], ...] = ()  # what method auto has tried, the winner first
    adapted: tuple[Adapted, ...] = ()
    rules: tuple[str, ...] = ()  # of acceptance

    def to_json(self) -> dict[str, Any]:
        """Plain values, without fields that hold their empty default."""
        value = asdict(self)
        silent: dict[str, Any] = {
            "graph": True,
            "engine": None,
            "inspected": None,
            "vote": None,
            "views": (),
            "adapted": (),
            "chosen": (),
            "rules": (),
        }
        silent |= {"device": "cpu", "features_device": "cpu"}
        for name, empty in silent.items():
            if value[name] == empty:
                del value[name]
        for name in ("weights_sha256", "licence"):
            if not value["backbone"][name]:
                del value["backbone"][name]
        value["training"] = [phase.to_json() for phase in self.training]
        if self.adapted:
            value["adapted"] = [
                {**asdict(one), "training": [phase.to_json() for phase in one.training]} for one in self.adapted
            ]
        plain: dict[str, Any] = _plain(value)
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """ModelFileError where a part of it is not understood."""
        nested: dict[str, Callable[[Any], Any]] = {
            "backbone": lambda v: _built(BackboneMeta, v),
            "data": lambda v: _built(DataMeta, v),
            "vote": lambda v: _built(VoteMeta, v),
            "training": _phases,
            "adapted": lambda v: tuple(_built(Adapted, {**one, "training": _phases(one["training"])}) for one in v),
        }
        try:
            typed = {k: nested[k](v) if k in nested and v is not None else v for k, v in value.items()}
            found: Self = _built(cls, typed)
            return found
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(f"the model's description is not understood ({error})") from None


def _phases(value: Sequence[Mapping[str, Any]]) -> tuple[PhaseReport, ...]:
    return tuple(_built(PhaseReport, entry) for entry in value)


def _built(cls: Any, value: Mapping[str, Any]) -> Any:
    """The dataclass of these values; lists become tuples, and names that it does not know are left out."""
    known = {f.name: f for f in fields(cls)}
    if missing := [n for n, f in known.items() if n not in value and f.default is f.default_factory is MISSING]:
        raise KeyError(missing[0])
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k in known})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
