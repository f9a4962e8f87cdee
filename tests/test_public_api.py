"""What users may rely on, listed in ``public_api.txt``: a change of it is seen in a review or not made.

After a change that is meant: ``LAKE_UPDATE_API=1 pytest tests/test_public_api.py`` writes the list anew.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lake_format as lake
from lake_format.errors import LakeError

LISTING = Path(__file__).with_name("public_api.txt")
MODULES = (
    "lake_format",
    *(f"lake_connectors.{one}" for one in ("duckdb", "datafusion", "polars", "iceberg")),
)


def listing() -> str:
    lines: list[str] = []
    for name in MODULES:
        module = importlib.import_module(name)
        lines += [name, "=" * len(name), ""]
        for public in sorted(module.__all__):
            lines += [*described(public, getattr(module, public)), ""]
    return "\n".join(lines).rstrip() + "\n"


def described(name: str, value: object) -> Iterator[str]:
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {name}({bases})" if bases else f"class {name}"
        if issubclass(value, LakeError):
            yield f"    code = {value.code!r}"
        yield from (f"    {line}" for line in members(value))
    elif callable(value):
        yield f"{name}{signature(value)}"
    else:
        yield f"{name} = {value!r}"


class Plain(str):
    """An annotation that is shown without the quotes it has while it is not evaluated."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def signature(value: Callable[..., object]) -> str:
    found = inspect.signature(value)
    parameters = [
        part.replace(annotation=plain(part.annotation, inspect.Parameter.empty))
        for part in found.parameters.values()
    ]
    return str(
        found.replace(parameters=parameters, return_annotation=plain(found.return_annotation, found.empty))
    )


def plain(annotation: object, empty: object) -> object:
    return Plain(annotation) if isinstance(annotation, str) and annotation is not empty else annotation


def members(kind: type) -> Iterator[str]:
    """Public methods and properties that our own classes define."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("lake_")]
    names = sorted({name for base in ours for name in vars(base) if is_public(name)})
    for name in names:
        value = inspect.getattr_static(kind, name)
        if isinstance(value, property):
            yield f"{name}: {inspect.signature(value.fget).return_annotation}"
        elif isinstance(value, classmethod | staticmethod) or inspect.isfunction(value):
            yield f"{name}{signature(getattr(kind, name))}"


def is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__arrow_c_stream__", "__arrow_c_schema__", "__len__")


def test_the_public_api_is_what_the_listing_says() -> None:
    now = listing()
    if os.environ.get("LAKE_UPDATE_API"):
        LISTING.write_text(now, "utf-8")
    assert now == LISTING.read_text("utf-8"), "the public API changed; see the first lines of this test"


@pytest.mark.parametrize("name", lake.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(lake, name)
    assert inspect.getdoc(value)
    assert name in dir(lake)
    for member, method in inspect.getmembers(value, inspect.isfunction) if inspect.isclass(value) else ():
        if not member.startswith("_") and method.__module__.startswith("lake_"):
            assert inspect.getdoc(method), f"{name}.{member}"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="serach"):
        lake.serach  # noqa: B018


def test_all_errors_are_public_and_have_codes_of_their_own() -> None:
    kinds = LakeError.__subclasses__()
    assert {kind.__name__ for kind in kinds} <= set(lake.__all__)
    assert len({kind.code for kind in kinds} | {LakeError.code}) == len(kinds) + 1
