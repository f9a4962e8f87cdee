"""Filters as DataFusion hands them over: pyarrow expressions that mean what DataFusion means by them.

DataFusion forgets a filter it has handed over, so it must be read by DataFusion's rules, not by Arrow's: NaN equals
itself and is greater than any number, and ``x IN (…)`` is NULL where x is.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from lake_engines.predicate import from_arrow
from lake_engines.predicate.tree import And, Expression, In, IsNull, Literal, Not, Or
from lake_format.errors import UnsupportedError

__all__ = ["conjuncts"]

_NULL = Literal(pa.scalar(None))


def conjuncts(filter_: pc.Expression | pa.Scalar | None) -> tuple[Expression, ...]:
    """What all must be TRUE. A filter that DataFusion found out to be constant comes as its value.

    Raises
    ------
    UnsupportedError
        Something that DataFusion 55 does not hand over.
    """
    if filter_ is None:
        return ()
    if isinstance(filter_, pa.Scalar):
        return () if filter_.as_py() else (Literal(pa.scalar(False)),)
    whole = from_arrow(filter_)
    if not whole.complete:
        raise UnsupportedError(
            f"the filter {filter_} is not known", fix="this connector was written for DataFusion 55"
        )
    return tuple(_three_valued(term) for term in whole.translated)


def _three_valued(node: Expression) -> Expression:
    """The node with Arrow's two-valued ``is_in`` read as SQL's IN."""
    match node:
        case And((Not(IsNull(value)), In(value=tested) as member)) if value == tested:
            return member
        case Or((IsNull(value), In(value=tested, options=options))) if value == tested:
            return In(tested, (*options, _NULL))
        case And(terms):
            return And(tuple(map(_three_valued, terms)))
        case Or(terms):
            return Or(tuple(map(_three_valued, terms)))
        case Not(term):
            return Not(_three_valued(term))
    return node
