"""Find a space by what a user writes: a built-in name, or `path/my_space.py:MySpace`."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Final

from toolchain.errors import ConfigurationError
from toolchain.spaces.connas1d import ConNAS1d
from toolchain.spaces.image2d import Image2d
from toolchain.spaces.mobilenet import Mobilenet
from toolchain.spaces.space import Space

BUILT_IN: Final[dict[str, type[Space]]] = {"connas1d": ConNAS1d, "image2d": Image2d, "mobilenet": Mobilenet}


def load_space(reference: str, **parameters: object) -> Space:
    """The space that a reference names, made with these parameters and checked (choices, shapes, head).

    Args:
        reference: a name of `BUILT_IN`, or a file and a class: `path/my_space.py:MySpace`. The file is run.
        parameters: keyword arguments of the class.

    Raises:
        ConfigurationError: file or class missing, the file does not run, the class is not a Space or does not
            take these parameters, or its blocks do not fit together.
    """
    found = space_class(reference)
    takes = inspect.signature(found)
    try:
        takes.bind(**parameters)
    except TypeError as error:
        unknown = [name for name in parameters if name not in takes.parameters]
        near = difflib.get_close_matches(unknown[0], takes.parameters, n=1) if unknown else []
        raise ConfigurationError(
            f"space {reference} has no parameter {unknown[0]!r}"
            if unknown
            else f"space {reference}: {error}",
            remedy=f"did you mean {near[0]!r}?" if near else f"it has {', '.join(takes.parameters)}",
        ) from error
    try:
        space = found(**parameters)
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise ConfigurationError(f"space {reference} cannot be made: {error}") from error
    space.count()  # builds every block's structure, so that a broken space says so here
    return space


def space_class(reference: str) -> type[Space]:
    """The class that a reference names; its signature says which parameters `load_space` takes.

    Raises:
        ConfigurationError: file or class missing, the file does not run, or the class is not a Space.
    """
    if reference in BUILT_IN:
        return BUILT_IN[reference]
    file, colon, name = reference.rpartition(":")
    if not colon or not name.isidentifier() or not file.endswith(".py"):
        raise ConfigurationError(
            f"unknown space {reference!r}",
            remedy=f"use {', '.join(BUILT_IN)}, or a file and a class: my_space.py:MySpace",
        )
    return _class_in(Path(file), name)


def _class_in(path: Path, name: str) -> type[Space]:
    module = _run_file(path)
    found = getattr(module, name, None)
    if found is None:
        spaces = [
            key for key, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, Space) and value.__module__ == module.__name__
        ]  # fmt: skip
        remedy = f"it has {', '.join(spaces)}" if spaces else "it has no subclass of toolchain.spaces.Space"
        raise ConfigurationError(f"{path} has no class {name}", remedy=remedy)
    if not (isinstance(found, type) and issubclass(found, Space)):
        raise ConfigurationError(
            f"{name} in {path} is not a Space", remedy="derive it from toolchain.spaces.Space"
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ConfigurationError(f"{name} in {path} does not define {missing}", remedy="see docs/spaces.md")
    return found


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(
            f"no file {path}",
            remedy="paths are relative to boardfit.toml, or, in Python, to the current folder",
        )
    name = "boardfit_user_" + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(spec)
    previous = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything
        if previous is None:
            del sys.modules[name]
        else:
            sys.modules[name] = previous
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
        line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
        where = f"{path}, line {line}" if line else str(path)
        raise ConfigurationError(f"{where}: {type(error).__name__}: {error}") from error
    return module
