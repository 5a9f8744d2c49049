"""Data sets: every format reaches the same checked splits, and broken ones say what is wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from toolchain.errors import DataError
from toolchain.workflow.config import DataSection
from toolchain.workflow.data import load_dataset, to_nhwc


def section(**values: Any) -> DataSection:
    return DataSection.model_validate({"kind": "npz", "path": "d.npz", **values})


def save(folder: Path, **arrays: Any) -> None:
    np.savez(folder / "d.npz", **arrays)


def balanced(count: int, classes: int = 3) -> np.ndarray:
    return np.arange(count) % classes


def test_digits_are_real_and_split_by_class(tmp_path: Path) -> None:
    data = load_dataset(DataSection(kind="digits"), tmp_path, seed=0)
    assert data.input_shape == (1, 8, 8)
    assert sum(len(y) for y in data.y.values()) == 1797
    assert data.x["train"].min() == 0.0
    assert data.x["train"].max() == 1.0
    shares = [np.bincount(data.y[s], minlength=10) / len(data.y[s]) for s in ("train", "test")]
    assert np.abs(shares[0] - shares[1]).max() < 0.01
    again = load_dataset(DataSection(kind="digits"), tmp_path, seed=0)
    other = load_dataset(DataSection(kind="digits"), tmp_path, seed=1)
    assert again.fingerprint == data.fingerprint != other.fingerprint
    big = load_dataset(DataSection(kind="digits", size=(32, 32)), tmp_path, seed=0)
    assert big.input_shape == (1, 32, 32)
    assert big.nhwc("val", 5).shape == (5, 32, 32, 1)


def test_resize_equals_torch(tmp_path: Path) -> None:
    import torch

    small = load_dataset(DataSection(kind="digits"), tmp_path, seed=0).x["val"][:9]
    big = load_dataset(DataSection(kind="digits", size=(20, 27)), tmp_path, seed=0).x["val"][:9]
    expected = torch.nn.functional.interpolate(torch.tensor(small), (20, 27), mode="bilinear").numpy()
    assert np.abs(big - expected).max() < 1e-6


def test_npz_with_its_own_splits_and_text_labels(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(12, 3, 20))
    y = np.array(["b", "a", "c"] * 4)
    save(tmp_path, x_train=x, y_train=y, x_val=x[:6], y_val=y[:6], x_test=x[:3], y_test=y[:3])
    data = load_dataset(section(), tmp_path, 0)
    assert data.classes == ("a", "b", "c")
    assert data.y["test"].tolist() == [1, 0, 2]
    assert data.x["train"].dtype == np.float32
    assert to_nhwc(data.x["test"]).shape == (3, 1, 20, 3)


def test_named_classes_keep_their_order(tmp_path: Path) -> None:
    save(tmp_path, x=np.zeros((30, 4)), y=balanced(30), classes=np.array(["zero", "one", "two"]))
    assert load_dataset(section(), tmp_path, 0).classes == ("zero", "one", "two")


@pytest.mark.parametrize("method", ["standard", "minmax"])
def test_normalisation_uses_the_training_split_alone(tmp_path: Path, method: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 5.0, size=(90, 2, 16))
    x[:, 1] = 7.0  # a constant channel must not divide by zero
    save(tmp_path, x=x, y=balanced(90))
    train = load_dataset(section(normalize=method), tmp_path, 0).x["train"][:, 0]
    if method == "standard":
        assert abs(float(train.mean())) < 1e-5
        assert abs(float(train.std()) - 1) < 1e-5
    else:
        assert (float(train.min()), float(train.max())) == (0.0, pytest.approx(1.0))


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"x": np.full((30, 4), np.nan), "y": balanced(30)}, "NaN"),
        ({"x": np.zeros((30, 4)), "y": balanced(29)}, "30 samples but 29 labels"),
        ({"x": np.zeros((30, 4)), "y": np.zeros(30, int)}, "1 class"),
        ({"x": np.zeros((30, 2, 2, 2, 2)), "y": balanced(30)}, "shape (2, 2, 2, 2)"),
        ({"x": np.zeros((30, 4))}, "has x but not y"),
        ({"images": np.zeros((30, 4))}, "name them x and y"),
        ({"x": np.zeros((30, 4)), "y": balanced(30) + 0.5}, "not whole numbers"),
        ({"x": np.zeros((30, 4)), "y": balanced(30), "classes": ["a", "b"]}, "2 classes are named"),
        ({"x": np.array(["a"] * 30), "y": balanced(30)}, "not numbers"),
        ({"x": np.zeros((4, 4)), "y": np.array([0, 0, 0, 1])}, "class '1' is missing in the"),
        ({"x_train": np.zeros((9, 4)), "y_train": balanced(9), "x_test": np.zeros((9, 5)), "y_test": balanced(9)},
         "other splits"),
        ({"x_train": np.zeros((9, 4)), "y_train": balanced(9), "x_test": np.zeros((2, 4)), "y_test": balanced(2)},
         "class '2' is missing in the test split"),
    ],
)  # fmt: skip
def test_broken_npz(tmp_path: Path, arrays: dict[str, Any], part: str) -> None:
    save(tmp_path, **arrays)
    with pytest.raises(DataError) as caught:
        load_dataset(section(), tmp_path, 0)
    assert part in str(caught.value)


def test_a_truncated_or_pickled_npz(tmp_path: Path) -> None:
    save(tmp_path, x=np.zeros((300, 4)), y=balanced(300))
    whole = (tmp_path / "d.npz").read_bytes()
    for size in (0, 3, 40, len(whole) // 2, len(whole) - 3):
        (tmp_path / "d.npz").write_bytes(whole[:size])
        with pytest.raises(DataError):
            load_dataset(section(), tmp_path, 0)
    save(tmp_path, x=np.array([{}, 1], object), y=balanced(2))
    with pytest.raises(DataError):
        load_dataset(section(), tmp_path, 0)
    with pytest.raises(DataError, match="does not exist"):
        load_dataset(section(path="none.npz"), tmp_path, 0)


def test_csv_windows_never_cross_a_label(tmp_path: Path) -> None:
    rows = ["a,b,label"]
    for block, name in enumerate(["x", "y", "x", "y", "x", "y", "x", "y"]):
        rows += [f"{block},{step},{name}" for step in range(10)]
    (tmp_path / "r.csv").write_text("\n".join(rows))
    data = load_dataset(section(kind="csv", path="r.csv", window=4, stride=3), tmp_path, 0)
    assert data.input_shape == (2, 4)
    assert data.classes == ("x", "y")
    total = sum(len(v) for v in data.y.values())
    assert total == 8 * 3
    for split in data.x:
        for sample, label in zip(data.x[split], data.y[split], strict=True):
            assert len(set(sample[0].tolist())) == 1
            assert int(sample[0][0]) % 2 == label


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a,b\n1,2\n", "no column 'label'"),
        ("a,label\n1,x\n2\n", "line 3: 1 fields"),
        ("a,label\n1,x\nfoo,x\n", "line 3"),
        ("a,label\n", "no data rows"),
        ("a,label\n1,x\n2,y\n", "no window of 4 rows"),
    ],
)
def test_broken_csv_names_the_line(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        load_dataset(section(kind="csv", path="r.csv", window=4), tmp_path, 0)
    assert part in str(caught.value)


def test_image_folders(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for name, value in (("dark", 20), ("light", 220)):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (9, 7), (value, value, value)).save(folder / f"{index}.png")
    data = load_dataset(section(kind="images", path="images", size=[8, 12], channels=3), tmp_path, 0)
    assert data.input_shape == (3, 8, 12)
    assert data.classes == ("dark", "light")
    assert data.x["test"][data.y["test"] == 1].mean() == pytest.approx(220 / 255)
    (tmp_path / "images" / "test" / "dark" / "0.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="not a readable image"):
        load_dataset(section(kind="images", path="images", size=[8, 12]), tmp_path, 0)
    with pytest.raises(DataError, match=r"needs data\.size"):
        load_dataset(section(kind="images", path="images"), tmp_path, 0)
