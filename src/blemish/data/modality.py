"""What a modality is: how a sample is read and prepared for the graph, and how its map is mapped back, searched and
drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from blemish.data.drawing import Picture, Scale
from blemish.data.listing import Listing, closed
from blemish.errors import DataError
from blemish.files import walk
from blemish.outputs import without_maps
from blemish.types import Record, Region

Raw = TypeVar("Raw")

WINDOW = 9.6  # seconds, where nothing else is requested


class Cut(NamedTuple):
    """How files become samples: length of a window in seconds, and the rate of files that state none; of images which
    lightings a sample has (`data.image.lightings`)."""

    window: float = WINDOW
    rate: float | None = None
    lightings: tuple[str, ...] = ()


class Modality(ABC, Generic[Raw]):
    """Samples of one kind as one model sees them. `Raw` is a sample as it was read, before the model's preparation.

    The class methods need no model; they serve before a model exists, and code that needs records alone.

    Args:
        preprocess: the plan by which a sample becomes the graph's input; it has `size`, the shape of the graph's map,
            and `to_json`.
    """

    name: ClassVar[str]  # `kind` in model.json
    samples: ClassVar[str]  # what many of them are to people
    map_unit: ClassVar[str]  # what pixel metrics are measured in
    part: ClassVar[str]  # what one sample is to people
    legend: ClassVar[str]  # how a report's pictures are read: what is drawn,
    found: ClassVar[str]  # what regions are drawn as,
    marked: ClassVar[str]  # and what people have marked
    hint: ClassVar[str]  # which files are read
    marks_whole: ClassVar[bool] = False  # a mask over a whole sample is normal
    wide: ClassVar[bool] = False  # a report shows one picture beside the other, or each over the whole width
    takes_in: ClassVar[str] = ""  # the unit of `takes`
    encoded: ClassVar[bool] = False  # `read` takes a file's bytes: samples may lie at a URL
    timed: ClassVar[bool] = False  # a sample is a stretch of time, which results say
    extra: ClassVar[tuple[str, ...]] = ()  # fields of a result's regions that this modality has beside those of all

    def __init__(self, preprocess: Any) -> None:
        self.preprocess = preprocess

    @property
    def size(self) -> Any:
        """Shape of the graph's map, a tuple of whole numbers."""
        return tuple(self.preprocess.size)

    @property
    def cut(self) -> Cut | None:
        """How files of a data set become samples; None where a file is one."""
        return None

    @property
    def several(self) -> bool:
        """Whether a file may hold several samples."""
        return False

    @property
    def read_from_files(self) -> bool:
        """Whether a sample has to be a file here: its bytes alone are not enough."""
        return not self.encoded

    @property
    def locates(self) -> bool:
        """Whether results say where the part lies, or that none was found."""
        return False

    @property
    def lightings(self) -> tuple[str, ...]:
        """Names of the pictures that one sample is, where it is several."""
        return ()

    @property
    def takes(self) -> str:
        """What goes into the model, for people."""
        return "x".join(str(side) for side in reversed(self.size))

    @classmethod
    @abstractmethod
    def from_json(cls, preprocess: Mapping[str, Any]) -> Self:
        """Of a model's `preprocess`; ConfigError where it is not understood."""

    @staticmethod
    @abstractmethod
    def content(record: Record) -> str:
        """What a record shows, by its values (see `data.identity`): records of one content are one sample.

        DataError where it cannot be read.
        """

    @staticmethod
    @abstractmethod
    def file_content(record: Record) -> str:
        """16 hex digits for the bytes that a record shows: what models of earlier versions know it by."""

    @classmethod
    def contents(cls, records: Sequence[Record]) -> Iterator[str]:
        """`content` of each, in order."""
        return map(cls.content, records)

    @classmethod
    def known(cls, record: Record, ids: Container[str]) -> bool:
        """Whether the ids that a model keeps name this record, by its values or, in an older model, by its bytes."""
        return cls.content(record) in ids or cls.file_content(record) in ids

    @staticmethod
    @abstractmethod
    def source(record: Record) -> Any:
        """What `read` takes, of a record."""

    @staticmethod
    @abstractmethod
    def mask(record: Record, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """Where a record is defective, in the shape of its map; None where its mask is not known."""

    @staticmethod
    def places(record: Record, mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]] | None:  # noqa: ARG004
        """The defects of a mask one by one, where other than side by side in the array; None where it is that."""
        return None

    @staticmethod
    def saturated(record: Record, shape: tuple[int, ...]) -> list[tuple[NDArray[np.bool_], int]]:  # noqa: ARG004
        """The defects of a record, each with how many of its places have to be found; empty where nothing says it."""
        return []

    @staticmethod
    @abstractmethod
    def is_sample(path: Path) -> bool:
        """Whether a file holds samples, by its name."""

    @classmethod
    def files(cls, folder: Path, cut: Cut | None = None) -> list[Path]:  # noqa: ARG003
        """The samples' files in a folder and below, sorted; none that lie where an earlier run has drawn maps."""
        return sorted(without_maps(filter(cls.is_sample, walk(folder).files)))

    @classmethod
    def records(cls, path: Path, name: str, cut: Cut | None = None) -> list[Record]:  # noqa: ARG003
        """The samples of a file that a user lists as a good one; `name` is the start of their ids."""
        return [Record(id=name, path=path)]

    @classmethod
    def completed(cls, records: Sequence[Record], cut: Cut | None) -> list[Record]:  # noqa: ARG003
        """The records of samples, where a sample has several files."""
        return list(records)

    @classmethod
    def listing(cls, folder: Path, cut: Cut | None = None) -> Listing:
        """`files`, those of samples alone, with what was found beside them and is not inspected, and why."""
        files, found = cls.files(folder, cut), walk(folder)
        out = Listing(files, [], Counter({"hidden": len(found.hidden)} if found.hidden else {}))
        taken = {*files, *cls.companions(files)}
        out.other.update(path.suffix.lower() or "without suffix" for path in found.files if path not in taken)
        out.unread.extend(closed(path, reason) for path, reason in found.closed.items())
        return out

    @staticmethod
    def companions(files: Sequence[Path]) -> set[Path]:  # noqa: ARG004
        """Files that belong to those of samples, and are read with them."""
        return set()

    def named_with(self, paths: Sequence[Path]) -> set[Path]:  # noqa: ARG002
        """Those of files that a user names which are a part of the sample of another one of them."""
        return set()

    def is_one(self, array: NDArray[Any]) -> bool:  # noqa: ARG002
        """Whether an array that is handed over as a row of samples is a single one by its shape."""
        return False

    def grab(self, source: Any) -> Any:
        """What is inspected later, in another thread, of what the caller hands over now and may use again: an array's
        copy. DataError where it cannot be had.
        """
        return source.copy() if isinstance(source, np.ndarray) else source

    def sources(self, path: Path) -> list[Any]:
        """What is inspected of one file."""
        return [path]

    @abstractmethod
    def read(self, source: Any) -> Raw:
        """A file, or a value that the caller passes. DataError where it cannot be read."""

    @abstractmethod
    def load(self, record: Record) -> tuple[str, Raw]:
        """`content` and sample of a record, read once."""

    @abstractmethod
    def prepare(self, raw: Raw) -> NDArray[Any]:
        """The graph's input for one sample. DataError where the sample does not fit the model."""

    def loaded(self, record: Record) -> tuple[str, Raw, NDArray[Any]]:
        """`content`, sample and prepared sample of a record, read once. DataError naming its file."""
        content, raw = self.load(record)
        try:
            return content, raw, self.prepare(raw)
        except DataError as error:
            raise error.at(record.path) from None

    def ready(self, record: Record) -> tuple[str, NDArray[Any]]:
        """`loaded` without the sample as it was read."""
        content, _, prepared = self.loaded(record)
        return content, prepared

    def pieces(self, records: Sequence[Record]) -> list[Record]:
        """The records of what is learned of these: one for each, but where a sample is learned in pieces."""
        return list(records)

    @property
    def tile_heads(self) -> tuple[int, ...]:
        """Numbers of the pieces, where the same piece of each sample shows the same place and has a head of its own."""
        return ()

    def example(self, record: Record) -> NDArray[Any]:
        """One input of the graph, on which it is compared with PyTorch."""
        return self.ready(record)[1]

    def stack(self, prepared: Sequence[NDArray[Any]]) -> Any:
        """Prepared samples as one input of the engine."""
        return np.stack(prepared)

    @abstractmethod
    def noise(self, generator: np.random.Generator) -> NDArray[Any]:
        """A prepared sample of noise, on which graph and PyTorch are compared."""

    def blank(self) -> NDArray[Any] | None:
        """A prepared sample that shows nothing: what no model may call good; None where `read` refuses such."""
        return None

    def alarm(self, raw: Raw) -> str | None:  # noqa: ARG002
        """Why a sample is anomalous whatever the graph would make of it; None where the graph decides."""
        return None

    @abstractmethod
    def back(self, anomaly_map: NDArray[np.float32], raw: Raw) -> NDArray[np.float32]:
        """The graph's map in the sample's own coordinates; values are never rescaled."""

    def inspected(self, raw: Raw) -> NDArray[np.bool_] | None:  # noqa: ARG002
        """Which places of a map in the sample's coordinates are inspected; None = all."""
        return None

    @abstractmethod
    def regions(self, anomaly_map: NDArray[np.float32], threshold: float, raw: Raw) -> tuple[Region, ...]:
        """Connected places of a map (in the sample's coordinates) above a threshold, highest peak first."""

    @property
    def measures(self) -> bool:
        """Whether its regions are measured: `measured` takes the place of `regions`."""
        return False

    @property
    def scaled(self) -> bool:
        """Whether measures are in millimetres too."""
        return False

    @property
    def areas(self) -> tuple[str, ...]:
        """Names of the areas that have a score and a threshold each."""
        return ()

    def area_scores(self, anomaly_map: NDArray[np.float32]) -> tuple[float, ...]:  # noqa: ARG002
        """The largest value of the graph's map in each of `areas`."""
        return ()

    def check(self, source: Any) -> None:  # noqa: B027
        """DataError where a source does not say what `measured` needs to know."""

    def measured(
        self,
        anomaly_map: NDArray[np.float32],
        threshold: float,
        raw: Raw,
        source: Any,  # noqa: ARG002
    ) -> tuple[Region, ...]:
        """All `regions`, with what is known of each beside its place. DataError where it should be known of a source,
        and is not."""
        return self.regions(anomaly_map, threshold, raw)

    @abstractmethod
    def named(self, source: Any, raw: Raw) -> dict[str, Any]:
        """Fields of `AnomalyResult` that say which sample it was."""

    @abstractmethod
    def picture(
        self, raw: Raw, anomaly_map: NDArray[np.float32], *, scale: Scale, regions: Sequence[Region] = ()
    ) -> Picture:
        """The sample with its map on it, in full size, for people."""

    @abstractmethod
    def thumbnail(
        self,
        raw: Raw,
        anomaly_map: NDArray[np.float32],
        *,
        scale: Scale,
        regions: Sequence[Region] = (),
        mask: NDArray[np.bool_] | None = None,
    ) -> Picture:
        """The same as a report shows it, with the place that people have marked."""
