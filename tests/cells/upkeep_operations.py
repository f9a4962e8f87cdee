"""Samples that change neither rows nor columns: indexes, files, versions, properties, tags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from machine.state import Effect, RefusedError, State

import lake_format as lake
from lake_format.errors import AlreadyExistsError, InvalidInputError, NotFoundError

from .sample import ANY_TABLE, Sample
from .table import ID, OLDER, OLDEST, N, V


def _edited(kind: str, edit: Callable[[State], State] | None = None) -> Callable[[State], Effect]:
    return lambda _: Effect(kind=kind, edit=edit)


def create_index(name: str, metric: str) -> Sample:
    def edit(now: State) -> State:
        return replace(now, indexes={**now.indexes, name: (V, metric)})

    return Sample(
        "create_index",
        f"{name} by {metric}",
        lambda table: table.create_index("v", metric, name=name),
        _edited("create_index", edit),
        redone=False,
    )


def drop_index(name: str) -> Sample:
    def edit(now: State) -> State:
        return replace(now, indexes={one: own for one, own in now.indexes.items() if one != name})

    return Sample("drop_index", name, lambda table: table.drop_index(name), _edited("drop_index", edit))


def upkeep(kind: str, title: str, call: Callable[[lake.Table], Any]) -> Sample:
    """Nothing that a reader could tell."""
    return Sample(kind, title, call, _edited(kind))


def expire(keep: int) -> Sample:
    def plan(state: State) -> Effect:
        horizon = max(state.horizon, state.reading - keep + 1)
        return Effect(kind="expire", edit=lambda now: replace(now, horizon=max(now.horizon, horizon)))

    return Sample("expire", f"all but {keep}", lambda table: table.expire_versions(keep=keep), plan)


def restore(number: int) -> Sample:
    def plan(state: State) -> Effect:
        old = state.older(number)
        if old is None:
            raise RefusedError(NotFoundError)
        return Effect(
            kind="restore",
            edit=lambda now: replace(now, columns=old.columns, rows=old.rows, indexes=old.indexes),
        )

    return Sample("restore", f"version {number}", lambda table: table.restore(number), plan, keyed=ANY_TABLE)


def set_property(name: str, value: str) -> Sample:
    def edit(now: State) -> State:
        return replace(now, properties={**now.properties, name: value})

    return Sample(
        "set_properties",
        f"{name} = {value}",
        lambda table: table.set_properties({name: value}),
        _edited("set_properties", edit),
    )


def set_key(name: str, number: int) -> Sample:
    def edit(now: State) -> State:
        own = now.column(number)
        return now if own is None else replace(now.with_column(replace(own, nullable=False)), key=number)

    def plan(state: State) -> Effect:
        values = [row[number] for row in state.rows.values()]
        if len(values) > len(set(values)):
            raise RefusedError(lake.DuplicateKeyError)
        if None in values:
            raise RefusedError(InvalidInputError)
        return Effect(kind="set_properties", edit=edit)

    return Sample("set_properties", f"key {name}", lambda table: table.set_key(name), plan, keyed=(False,))


def set_tag(name: str, number: int, *, move: bool = False) -> Sample:
    def plan(state: State) -> Effect:
        if not state.keeps(number):
            raise RefusedError(NotFoundError)
        if not move and state.tags.get(name, number) != number:
            raise RefusedError(AlreadyExistsError)
        return Effect(kind="set_ref", edit=lambda now: replace(now, tags={**now.tags, name: number}))

    title = f"{name} at {number}"
    return Sample("set_ref", title, lambda table: table.tag(name, number, move=move), plan)


def delete_tag(name: str) -> Sample:
    def plan(state: State) -> Effect:
        if name not in state.tags:
            raise RefusedError(NotFoundError)

        def edit(now: State) -> State:
            return replace(now, tags={one: number for one, number in now.tags.items() if one != name})

        return Effect(kind="set_ref", edit=edit)

    return Sample("set_ref", f"{name} gone", lambda table: table.delete_tag(name), plan)


INDEXES = (
    create_index("v_cosine", "cosine"),
    create_index("another", "l2"),
    drop_index("v_l2"),
    drop_index("v_ip"),
    upkeep("optimize_index", "v_l2", lambda table: table.optimize_index("v_l2")),
    upkeep("optimize_index", "v_ip", lambda table: table.optimize_index("v_ip")),
)
FILES = (
    upkeep("compact", "the small ones", lambda table: table.compact(6, deleted_share=0.9)),
    upkeep("compact", "the worn one", lambda table: table.compact(2, deleted_share=0.1)),
    upkeep("cluster", "those out of order", lambda table: table.cluster("n")),
    upkeep("cluster", "everything", lambda table: table.cluster("n", everything=True)),
)
VERSIONS = (
    expire(1),
    expire(3),
    restore(OLDER),
    restore(OLDEST),
    set_tag("u", OLDER),
    set_tag("u", 3),
    set_tag("w", 3),
    set_tag("t", OLDER, move=True),
    delete_tag("t"),
)
PROPERTIES = (
    set_property("user.note", "b"),
    set_property("user.other", "c"),
    set_key("id", ID),
    set_key("n", N),
    Sample(
        "set_properties",
        "no key",
        lambda table: table.drop_key(),
        _edited("set_properties", lambda now: replace(now, key=None)),
    ),
    upkeep("set_properties", "clustering", lambda table: table.set_clustering("n")),
    upkeep("set_properties", "partitioning", lambda table: table.set_partitioning("bucket(2, id)")),
)
UPKEEP_OPERATIONS = (*INDEXES, *FILES, *VERSIONS, *PROPERTIES)
