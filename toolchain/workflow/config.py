"""The project file, `boardfit.toml`: every key, its default, and what is wrong with a file that does not fit.

Source of truth for docs/cli.md's table of keys (a test compares the two).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from toolchain.errors import ConfigurationError
from toolchain.units import BUDGET_METRICS, NETWORK_METRICS, Budget, QuantileBudget, parse_limit

PROJECT_FILE = "boardfit.toml"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # it becomes part of metrics and of folders


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProjectSection(_Section):
    """Names the project and seeds everything that is random."""

    name: str = Field(min_length=1, description="shown in reports")
    seed: int = Field(0, ge=0, description="seed of splits, weights, search and sampling")
    threads: int = Field(
        1, ge=1, description="of search and training; the same seed and threads give the same network"
    )


class DataSection(_Section):
    """Where the samples come from and how they are split."""

    kind: Literal["digits", "npz", "csv", "images"] = Field(
        description="format of the data set (docs/data.md)"
    )
    path: str = Field("", description="file or folder, relative to the project file; not for digits")
    size: tuple[int, int] | None = Field(None, description="images, digits: resize to (height, width)")
    channels: Literal[1, 3] = Field(1, description="images: grey or RGB")
    label: str = Field("label", description="csv: name of the label column")
    window: int = Field(128, ge=1, description="csv: samples per window")
    stride: int = Field(64, ge=1, description="csv: samples between window starts")
    normalize: Literal["none", "standard", "minmax"] = Field(
        "none", description="per channel, with figures of the training split; none keeps the values"
    )
    validation: float = Field(
        0.2, gt=0, lt=1, description="share for validation, where the data has no split"
    )
    test: float = Field(0.2, gt=0, lt=1, description="share for the test, where the data has no split")


class SpaceSection(_Section):
    """The search space."""

    name: str = Field(description="image2d, connas1d, mobilenet, or your own: path/to/file.py:Class")
    parameters: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the space")


class TargetSection(_Section):
    """A device and what a network may cost on it. `[[target]]` may stand several times."""

    name: str = Field(
        "", description="in tables and metrics, where there are several targets; by default from the URL"
    )
    url: str = Field("cpu:litert", description="which device and runtime (boardfit boards lists them)")
    precision: Literal["int8", "float32"] = Field("int8", description="what runs on the device")
    budgets: dict[str, str | int | float] = Field(
        default_factory=dict,
        description='upper bounds: latency = "2 ms", flash = "64 kB", ram, cycles, instructions, macs, params; '
        '"25 %": as cheap as the cheapest quarter of the space',
    )

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if value and not _NAME.fullmatch(value):
            raise ValueError("letters, digits, '.', '_' and '-' only, a letter or digit first")
        return value

    @field_validator("budgets")
    @classmethod
    def _known(cls, value: dict[str, str | int | float]) -> dict[str, str | int | float]:
        for key, text in value.items():
            try:
                parse_limit(key, text)
            except ConfigurationError as error:
                raise ValueError(str(error)) from error
        return value

    @property
    def limits(self) -> tuple[Budget | QuantileBudget, ...]:
        """The budgets, parsed, in a fixed order."""
        return tuple(parse_limit(key, self.budgets[key]) for key in BUDGET_METRICS if key in self.budgets)


class ProfileSection(_Section):
    """How the lookup table is made."""

    networks: int = Field(16, ge=0, description="whole networks measured to calibrate sums of operators")
    lut: str = Field("lut.sqlite", description="the table's file, relative to the project file")
    share: str = Field(
        "100 %",
        description="how much of the space's operators is measured; what the others cost is predicted",
    )

    @field_validator("share")
    @classmethod
    def _share(cls, value: str) -> str:
        try:
            parse_share(value)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        return value


class SearchSection(_Section):
    """How the network is found."""

    method: Literal["connas", "binas", "evolution", "random"] = Field(
        "connas", description="docs/cli.md, search methods"
    )
    preset: Literal["quick", "paper"] = Field(
        "quick",
        description="connas: settings for minutes on a CPU, or the paper's (150 epochs); the keys below override",
    )
    epochs: int | None = Field(
        None, ge=1, description="connas: passes over the training set; others: of the supernet"
    )
    batch_size: int | None = Field(None, ge=1, description="samples per step")
    learning_rate: float | None = Field(None, gt=0, description="weights of the supernet (SGD)")
    alpha_learning_rate: float | None = Field(None, gt=0, description="connas: architecture weights (Adam)")
    rescale: float = Field(1.2, gt=1, description="connas: R, weight of the feasibility direction")
    relaxation: Literal["gumbel", "darts", "proxyless"] = Field(
        "gumbel", description="connas: how the supernet mixes candidates (docs/connas.md)"
    )
    margin: float | None = Field(
        None,
        ge=0,
        le=100,
        description="per cent by which a measured budget (latency, cycles) is tightened, as predictions err; by "
        "default 10 on a CPU, 2 on a board",
    )
    samples: int = Field(200, ge=1, description="evolution, random: networks evaluated")
    sampling: Literal["uniform", "fair"] = Field(
        "uniform",
        description="binas: what the supernet trains: one random network a step, or all candidates equally often",
    )
    estimator: Literal["contributions", "fitted"] = Field(
        "contributions",
        description="binas: accuracies from measured contributions, or a regularised fit to the same samples",
    )
    contribution_samples: int = Field(
        20_000,
        ge=100,
        description="binas: validation samples, each on a random network, that contributions are measured on",
    )
    ranking_networks: int = Field(
        32, ge=0, description="binas: random networks measured one by one, to judge predicted accuracies"
    )


class RunSection(_Section):
    """When `boardfit run` has measured enough whole networks."""

    tolerance: float | None = Field(
        None,
        gt=0,
        le=100,
        description="per cent that the predicted cost of the chosen network may differ from its measured one; by "
        "default 5 on a CPU, 2 on a board",
    )
    rounds: int = Field(
        5,
        ge=0,
        description="at most so many times candidates are measured and the cost model is corrected; 0: never",
    )
    candidates: int = Field(
        3, ge=0, le=5, description="next best networks that are measured beside the chosen one"
    )


class TrainingSection(_Section):
    """How the winner is trained and quantised."""

    epochs: int = Field(60, ge=1, description="passes over the training set")
    batch_size: int = Field(32, ge=1, description="samples per step")
    learning_rate: float = Field(0.05, gt=0, description="peak of the cosine schedule")
    quantization: Literal["ptq", "qat"] = Field(
        "ptq", description="after training, or with fine-tuning in int8"
    )
    ranges: Literal["minmax", "percentile", "mse"] = Field("minmax", description="calibration of activations")
    qat_epochs: int = Field(5, ge=1, description="qat: passes of fine-tuning")
    calibration_samples: int = Field(256, ge=1, description="training samples that set the int8 ranges")


class Config(_Section):
    """A whole project file."""

    project: ProjectSection
    data: DataSection
    space: SpaceSection
    target: tuple[TargetSection, ...] = Field((TargetSection(name="cpu-litert"),), min_length=1)
    profile: ProfileSection = ProfileSection()
    search: SearchSection = SearchSection()
    run: RunSection = RunSection()
    training: TrainingSection = TrainingSection()

    @field_validator("target", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, dict) else value

    @field_validator("target")
    @classmethod
    def _named(cls, value: tuple[TargetSection, ...]) -> tuple[TargetSection, ...]:
        given = [target.name for target in value if target.name]
        twice = {name for name in given if given.count(name) > 1}
        if twice:
            raise ValueError(f"two targets are called {min(twice)!r}")
        named, taken = [], set(given)
        for target in value:
            name = target.name or name_of(target.url)
            number = 1
            while not target.name and name in taken:
                number += 1
                name = f"{name_of(target.url)}-{number}"
            taken.add(name)
            named.append(target.model_copy(update={"name": name}))
        return tuple(named)

    def metric(self, target: TargetSection, metric: str) -> str:
        """What a target's metric is called in this project: `pi:latency_us`, where there are several targets.

        MACs and parameters are the network's own: they have one name, whatever the targets.
        """
        alone = len(self.target) == 1 or metric in NETWORK_METRICS
        return metric if alone else f"{target.name}:{metric}"


def name_of(url: str) -> str:
    """A target's name by its URL: the board's, the host's, or the engine's."""
    scheme, _, rest = url.partition(":")
    place, _, query = rest.partition("?")
    board = re.search(r"(?:^|&)board=([^&]+)", query)
    if board is not None:
        text = board[1]
    elif scheme == "virtual":
        text = place
    elif "//" in place:
        text = place.rpartition("@")[2].strip("/").partition(":")[0].partition(".local")[0]
    else:
        text = url.partition("?")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "target"


def parse_share(text: str) -> float:
    """Read how much of a space is measured: `"25 %"` -> 0.25.

    Raises:
        ConfigurationError: no percentage above 0, at most 100.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", text)
    share = float(found[1]) / 100 if found else 0.0
    if not 0 < share <= 1:
        raise ConfigurationError(f"{text!r} is no share of the operators", remedy='write for example "25 %"')
    return share


def load_config(path: Path) -> Config:
    """Read and check a project file.

    Raises:
        ConfigurationError: no file, not TOML, an unknown key (with the nearest known one), a wrong value.
    """
    if path.is_dir():
        path = path / PROJECT_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(
            f"no project file {path}", remedy="make one with: boardfit init NAME"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"cannot read {path}: {error}", remedy="make it a text file in UTF-8 that you may read"
        ) from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"{path} is not TOML: {error}",
            remedy="correct that line (docs/cli.md has every key), or begin with a new one: boardfit init NAME",
        ) from error
    _whole_numbers(values, "", path)
    return parse_config(values, str(path))


def _whole_numbers(value: Any, key: str, path: Path) -> None:
    """TOML's whole numbers have 64 bits; Python's reader takes longer ones, which nothing else does."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigurationError(
            f"{path}: {key} has {len(str(abs(value)))} digits; a whole number ends at {2**63 - 1}",
            remedy=f"write a smaller {key}",
        )
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        _whole_numbers(part, f"{key}.{name}".strip("."), path)


def parse_config(values: dict[str, Any], where: str) -> Config:
    """Check a project's keys and values; `where` names the source in messages."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems, remedy = [], ""
        found = error.errors()
        wrong_inside = {item["loc"][:1] for item in found if len(item["loc"]) > 1}
        for item in found:
            if item["type"] == "too_short" and item["loc"] in wrong_inside:
                continue  # the list is short of what is wrong in it
            # Which of several targets it is: the first has number 1. One alone has none.
            place = [str(part + 1) if isinstance(part, int) else str(part) for part in item["loc"]]
            if place[:1] == ["target"] and not isinstance(values.get("target"), list):
                place = [part for part in place if not part.isdecimal()]
            key = ".".join(place)
            location = tuple(part for part in place if not part.isdecimal())
            if item["type"] == "extra_forbidden":
                near = difflib.get_close_matches(location[-1], _known_keys(location[:-1]), n=1)
                problems.append(f"unknown key {key!r}")
                remedy = remedy or (f"did you mean {'.'.join((*place[:-1], near[0]))!r}?" if near else "")
            elif item["type"] == "missing":
                problems.append(f"missing key {key!r}")
            else:
                text = str(item["msg"]).removeprefix("Value error, ")
                # A whole section would hide what is wrong with one of its values; the text names that.
                given = "" if isinstance(item["input"], dict | list | tuple) else f" = {item['input']!r}"
                problems.append(f"{key}{given}: {text}")
        raise ConfigurationError(f"{where}: {'; '.join(problems)}", remedy=remedy) from None


def _known_keys(section: tuple[str, ...]) -> list[str]:
    """Keys that may stand in a section of the file."""
    model: type[BaseModel] = Config
    for part in section:
        field = model.model_fields.get(part)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)
