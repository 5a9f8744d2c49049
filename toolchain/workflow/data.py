"""Data sets: digits, npz, CSV windows and image folders become one thing, split, checked and normalised.

Samples are float32 in torch's layout without batch: (C, H, W) for images, (C, L) for time series, (F,) for
feature vectors. Labels are int64 indices into `classes`.
"""

from __future__ import annotations

import csv
import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import ConfigurationError, DataError
from toolchain.workflow.config import DataSection

SPLITS = ("train", "val", "test")
Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Normalization:
    """What was done to every value: (x - offset) * scale per channel. Written beside exported models."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Checked and split samples.

    Attributes:
        x, y: split name ("train", "val", "test") -> samples N x (C, H, W), (C, L) or (F,); labels N.
        classes: names, in the order of the label indices.
        normalization: applied already.
        fingerprint: hash over all samples and labels; a stage that depends on the data depends on it.
    """

    x: dict[str, Floats]
    y: dict[str, Labels]
    classes: tuple[str, ...]
    normalization: Normalization
    fingerprint: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample in torch's layout."""
        return tuple(int(d) for d in self.x["train"].shape[1:])

    def nhwc(self, split: str, limit: int | None = None) -> Floats:
        """Samples of a split in the graph's layout: N x H x W x C (time series: H = 1), or N x F."""
        return to_nhwc(self.x[split][:limit])


def to_nhwc(x: Floats) -> Floats:
    """Torch's layout with a batch -> the graph's: NCHW -> NHWC, NCL -> N1LC, NF stays."""
    if x.ndim == 4:
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    if x.ndim == 3:
        return np.ascontiguousarray(x.transpose(0, 2, 1)[:, None])
    return np.ascontiguousarray(x)


def load_dataset(section: DataSection, folder: Path, seed: int) -> Dataset:
    """Read, check, split and normalise the data set that a project file names.

    Args:
        section: the file's [data].
        folder: where the project file lies; relative paths start there.
        seed: of the split, where the data brings none.

    Raises:
        DataError: wrong shapes, NaN, labels that do not fit, a class missing in a split, a missing file.
        ConfigurationError: an optional package is missing.
    """
    if section.kind != "digits":
        if not section.path:
            raise DataError(
                f"data.path is empty, and kind {section.kind!r} needs one",
                remedy="set data.path to the file or folder, relative to the project file (docs/data.md)",
            )
        path = folder / section.path
        if not path.exists():
            raise DataError(
                f"data.path {path} does not exist",
                remedy="correct data.path; it is relative to the project file",
            )
    if section.kind == "digits":
        parts, classes = _digits(section)
    elif section.kind == "npz":
        parts, classes = _npz(path)
    elif section.kind == "csv":
        parts, classes = _csv_windows(path, section)
    else:
        parts, classes = _images(path, section)
    _check(parts, classes)
    parts = _split(parts, section, seed)
    _check_splits(parts, classes)
    normalization = _fit_normalization(parts["train"][0], section.normalize)
    x = {name: _normalize(values, normalization) for name, (values, _) in parts.items()}
    y = {name: labels for name, (_, labels) in parts.items()}
    digest = hashlib.sha256()
    for name in SPLITS:
        digest.update(repr(x[name].shape).encode())
        digest.update(np.ascontiguousarray(x[name]).tobytes())
        digest.update(y[name].tobytes())
    return Dataset(x, y, classes, normalization, digest.hexdigest()[:16])


_Parts = dict[str, tuple[Floats, Labels]]


def _digits(section: DataSection) -> tuple[_Parts, tuple[str, ...]]:
    """scikit-learn's copy of the UCI handwritten digits: 1797 real scans, 8x8, 16 grey levels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigurationError(
            "data.kind = 'digits' needs scikit-learn", remedy="pip install 'boardfit[demo]'"
        ) from None
    bunch = load_digits()
    x = (bunch.images.astype(np.float32) / 16.0)[:, None]
    if section.size is not None:
        x = _resize(x, section.size)
    return {"all": (x, bunch.target.astype(np.int64))}, tuple(str(name) for name in range(10))


def _resize(x: Floats, size: tuple[int, int]) -> Floats:
    """Bilinear resize of N x C x H x W, aligned at pixel centres (as Pillow and torch do by default)."""

    def positions(new: int, old: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
        centre = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(centre).astype(np.intp)
        return low, np.minimum(low + 1, old - 1), (centre - low).astype(np.float32)

    top, bottom, dy = positions(size[0], x.shape[2])
    left, right, dx = positions(size[1], x.shape[3])
    rows = x[:, :, top] * (1 - dy)[:, None] + x[:, :, bottom] * dy[:, None]
    resized: Floats = (rows[..., left] * (1 - dx) + rows[..., right] * dx).astype(np.float32)
    return resized


def _npz(path: Path) -> tuple[_Parts, tuple[str, ...]]:
    """Arrays x, y (to be split) or x_train, y_train, x_val, y_val, x_test, y_test; optional classes."""
    try:
        # Opened here, because np.load leaves the file open when the archive is damaged.
        with path.open("rb") as opened:
            if opened.read(6) == b"\x93NUMPY":
                raise ValueError("it holds one array alone, without labels (.npy)")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} is not a readable npz file: {error}",
            remedy="write it again with numpy.savez(path, x=samples, y=labels)",
        ) from error
    names = [s for s in SPLITS if f"x_{s}" in arrays]
    if "x" in arrays:
        wanted = {"all": ("x", "y")}
    elif "train" in names:
        wanted = {s: (f"x_{s}", f"y_{s}") for s in names}
    else:
        raise DataError(
            f"{path} has arrays {sorted(arrays)}", remedy="name them x and y, or x_train, y_train, x_val, ..."
        )
    parts: dict[str, tuple[Any, Any]] = {}
    for split, (x_name, y_name) in wanted.items():
        if y_name not in arrays:
            raise DataError(
                f"{path} has {x_name} but not {y_name}",
                remedy="store the labels beside it: numpy.savez(..., x=..., y=...)",
            )
        parts[split] = (arrays[x_name], arrays[y_name])
    return _index_labels(path, parts, arrays.get("classes"))


def _index_labels(
    path: Path, parts: dict[str, tuple[Any, Any]], classes: Any | None
) -> tuple[_Parts, tuple[str, ...]]:
    """Labels of any kind (integers, text) -> indices; names from the file, else from the labels."""
    labels = np.concatenate([np.asarray(y).ravel() for _, y in parts.values()])
    if labels.dtype.kind == "f" and not np.all(labels == np.round(labels)):
        raise DataError(
            f"{path}: labels are not whole numbers", remedy="boardfit classifies; regression is not covered"
        )
    if labels.dtype.kind not in "iufUSb":
        raise DataError(
            f"{path}: labels of type {labels.dtype} are not understood",
            remedy="use whole numbers or texts as labels",
        )
    values = np.unique(labels)
    if classes is not None:
        names = tuple(str(name) for name in np.asarray(classes).ravel())
        if labels.dtype.kind not in "US":
            if values[0] < 0 or values[-1] >= len(names):
                raise DataError(
                    f"{path}: labels run from {values[0]} to {values[-1]}, but {len(names)} classes are named",
                    remedy="name a class for each label, or leave out the array classes",
                )
            values = np.arange(len(names))
        else:
            unknown = set(values.tolist()) - set(names)
            if unknown:
                raise DataError(
                    f"{path}: labels {sorted(unknown)} are not among the classes {names}",
                    remedy="name them in the array classes, or leave it out",
                )
            values = np.asarray(sorted(names))
            names = tuple(str(v) for v in values)
    else:
        names = tuple(str(int(v)) if labels.dtype.kind in "iufb" else str(v) for v in values)
    result: _Parts = {}
    for split, (x, y) in parts.items():
        x = np.asarray(x)
        if x.dtype.kind not in "iufb":
            raise DataError(
                f"{path}: samples of type {x.dtype} are not numbers",
                remedy="store samples as float32 or uint8",
            )
        flat = np.asarray(y).ravel()
        result[split] = (x.astype(np.float32), np.searchsorted(values, flat).astype(np.int64))
    return result, names


def _csv_windows(path: Path, section: DataSection) -> tuple[_Parts, tuple[str, ...]]:
    """Windows over CSV recordings: one file, or a folder of files (train/, val/, test/ inside give the split).

    Each file has a header; the label column holds the class of each row, the other columns are channels. A
    window never crosses files or a change of the label.
    """
    files: dict[str, list[Path]]
    if path.is_file():
        files = {"all": [path]}
    else:
        files = {s: sorted((path / s).glob("*.csv")) for s in SPLITS if (path / s).is_dir()}
        files = files or {"all": sorted(path.glob("*.csv"))}
    columns: list[str] | None = None
    parts: dict[str, tuple[Any, Any]] = {}
    for split, names in files.items():
        xs: list[Floats] = []
        ys: list[str] = []
        for name in names:
            header, values, labels = _read_csv(name, section.label)
            if columns is None:
                columns = header
            elif columns != header:
                raise DataError(
                    f"{name} has columns {header}, the first file has {columns}",
                    remedy="give all files the same columns",
                )
            ends = [*(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), len(labels)]
            start = 0
            for end in ends:
                for first in range(start, end - section.window + 1, section.stride):
                    xs.append(values[first : first + section.window].T)
                    ys.append(str(labels[first]))
                start = end
        if not xs:
            raise DataError(
                f"{path}: no window of {section.window} rows with one label in {len(names)} file(s) ({split})",
                remedy="make data.window smaller or check the label column",
            )
        parts[split] = (np.stack(xs), np.asarray(ys))
    return _index_labels(path, parts, None)


def _read_csv(path: Path, label: str) -> tuple[list[str], Floats, NDArray[np.str_]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"cannot read {path}: {error}", remedy="save it as CSV in UTF-8, readable by you"
        ) from error
    if len(rows) < 2:
        raise DataError(f"{path} has no data rows", remedy="add rows below the header, or remove the file")
    header = [name.strip() for name in rows[0]]
    if label not in header:
        raise DataError(f"{path} has no column {label!r}; it has {header}", remedy="set data.label")
    index = header.index(label)
    values = np.empty((len(rows) - 1, len(header) - 1), np.float32)
    labels = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(
                f"{path}, line {number}: {len(row)} fields, the header has {len(header)}",
                remedy="give each row as many fields as the header",
            )
        labels.append(row[index].strip())
        try:
            values[number - 2] = [float(v) for position, v in enumerate(row) if position != index]
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: {error}", remedy="every column but the label holds numbers"
            ) from error
    return [name for name in header if name != label], values, np.asarray(labels)


def _images(path: Path, section: DataSection) -> tuple[_Parts, tuple[str, ...]]:
    """A folder per class with PNG, JPEG or BMP files; train/, val/, test/ above them give the split."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ConfigurationError(
            "data.kind = 'images' needs Pillow", remedy="pip install 'boardfit[images]'"
        ) from None
    if section.size is None:
        raise DataError("data.kind = 'images' needs data.size", remedy="for example size = [32, 32]")
    roots = {s: path / s for s in SPLITS if (path / s).is_dir()} or {"all": path}
    parts: dict[str, tuple[Any, Any]] = {}
    for split, root in roots.items():
        xs: list[Floats] = []
        ys: list[str] = []
        for folder in sorted(p for p in root.iterdir() if p.is_dir()):
            for name in sorted(folder.iterdir()):
                if name.suffix.lower() not in (".png", ".jpg", ".jpeg", ".bmp"):
                    continue
                try:
                    with Image.open(name) as opened:
                        image = opened.convert("L" if section.channels == 1 else "RGB")
                        image = image.resize((section.size[1], section.size[0]), Image.Resampling.BILINEAR)
                except (UnidentifiedImageError, OSError) as error:
                    raise DataError(
                        f"{name} is not a readable image: {error}", remedy="replace or remove it"
                    ) from error
                pixels = np.asarray(image, np.float32) / 255.0
                xs.append(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
                ys.append(folder.name)
        if not xs:
            raise DataError(f"{root} has no images in class folders", remedy="lay them out as CLASS/name.png")
        parts[split] = (np.stack(xs), np.asarray(ys))
    return _index_labels(path, parts, None)


def _check(parts: _Parts, classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        raise DataError(
            f"the data has {len(classes)} class(es); a classifier needs at least 2",
            remedy="add samples of another class",
        )
    shape = None
    for split, (x, y) in parts.items():
        if x.ndim not in (2, 3, 4):
            raise DataError(
                f"{split}: samples have shape {x.shape[1:]}",
                remedy="use (C, H, W), (C, L) or (F,) per sample",
            )
        if len(x) != len(y):
            raise DataError(
                f"{split}: {len(x)} samples but {len(y)} labels", remedy="give each sample one label"
            )
        if len(x) == 0:
            raise DataError(f"{split}: no samples", remedy="add some, or leave out this split")
        if shape is not None and x.shape[1:] != shape:
            raise DataError(
                f"{split}: samples have shape {x.shape[1:]}, other splits have {shape}",
                remedy="give all samples one shape",
            )
        shape = x.shape[1:]
        bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))
        if len(bad):
            raise DataError(
                f"{split}: {len(bad)} of {len(x)} samples contain NaN or infinity (first: {bad[0]})",
                remedy="remove or repair them, e.g. numpy.nan_to_num",
            )


def _split(parts: _Parts, section: DataSection, seed: int) -> _Parts:
    """Bring any of {all}, {train}, {train, test}, {train, val, test} to the three splits, stratified by class."""
    rng = np.random.default_rng(seed)
    if "all" in parts:
        rest, test = _take(parts["all"], section.test, rng)
        train, val = _take(rest, section.validation / (1 - section.test), rng)
        return {"train": train, "val": val, "test": test}
    result = dict(parts)
    if "test" not in result:
        result["train"], result["test"] = _take(result["train"], section.test, rng)
    if "val" not in result:
        result["train"], result["val"] = _take(result["train"], section.validation, rng)
    return result


def _take(
    part: tuple[Floats, Labels], share: float, rng: np.random.Generator
) -> tuple[tuple[Floats, Labels], tuple[Floats, Labels]]:
    """Split off a share of each class (at least one sample of a class that has two)."""
    x, y = part
    if not 0 < share < 1:
        raise DataError(
            "data.validation and data.test together leave nothing to train on",
            remedy="make data.validation and data.test smaller",
        )
    chosen = np.zeros(len(y), bool)
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        count = min(max(1, round(share * len(members))), len(members) - 1)
        chosen[members[:count]] = True
    return (x[~chosen], y[~chosen]), (x[chosen], y[chosen])


def _check_splits(parts: _Parts, classes: tuple[str, ...]) -> None:
    for split in SPLITS:
        present = np.unique(parts[split][1])
        missing = [name for index, name in enumerate(classes) if index not in present]
        if missing:
            raise DataError(
                f"class {missing[0]!r} is missing in the {split} split"
                + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""),
                remedy="add samples of it or change the split",
            )


def _channel_axes(x: Floats) -> tuple[int, ...]:
    """All axes but the channel's (the feature's, for vectors)."""
    return (0, *range(2, x.ndim))


def _fit_normalization(x: Floats, method: str) -> Normalization:
    channels = x.shape[1]
    axes = _channel_axes(x)
    if method == "standard":
        offset, spread = x.mean(axes), x.std(axes)
    elif method == "minmax":
        offset, spread = x.min(axes), x.max(axes) - x.min(axes)
    else:
        return Normalization((0.0,) * channels, (1.0,) * channels)
    scale = 1.0 / np.where(spread > 0, spread, 1.0)
    return Normalization(tuple(map(float, offset)), tuple(map(float, scale)))


def _normalize(x: Floats, normalization: Normalization) -> Floats:
    shape = (1, -1, *(1,) * (x.ndim - 2))
    offset = np.asarray(normalization.offset, np.float32).reshape(shape)
    scale = np.asarray(normalization.scale, np.float32).reshape(shape)
    return np.ascontiguousarray((x - offset) * scale, np.float32)
