"""Constants in filters: text to typed scalars, and scalars back to SQL text.

This module knows how dates, times, numbers and byte strings are written; it must not know columns or
operators. Whatever cannot be read exactly is a ``ValueError`` whose message says why: callers say where.
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re

import pyarrow as pa

from lake_format.statistics import is_binary_like, storage_scalar

__all__ = [
    "binary_from_text",
    "cast_scalar",
    "date_from_text",
    "interval_from_text",
    "literal_sql",
    "number_from_text",
    "scalar_from_text",
    "shifted",
    "text_sql",
    "time_from_text",
    "timestamp_from_text",
    "type_sql",
]

_EPOCH = dt.date(1970, 1, 1)
_DATE = r"(\d{4,5})-(\d{1,2})-(\d{1,2})"
_TIME = r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?"
_ZONE = r"\s*(Z|UTC|[+-]\d{1,2}(?::?\d{2})?)"
_DATE_ONLY = re.compile(_DATE)
_TIME_ONLY = re.compile(_TIME)
_TIMESTAMP = re.compile(rf"{_DATE}(?:[T ]\s*{_TIME}(?:{_ZONE})?)?", re.IGNORECASE)
_NUMBER = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d+))?")
_ESCAPED_BYTE = re.compile(rb"\\x([0-9A-Fa-f]{2})")
_MOST_DIGITS = 76  # of a decimal256
_NANOSECONDS_PER_DAY = 86_400 * 10**9


def number_from_text(text: str) -> pa.Scalar:
    """Read a number as written in SQL: digits are integers or decimals, an exponent makes a double.

    Integers beyond 64 bits become decimals; more than 76 digits become a double.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None or not (match[2] or match[3]):
        raise ValueError("it is not a number")
    sign, whole, fraction, exponent = match.groups()
    fraction = fraction or ""
    digits = (whole + fraction).lstrip("0")
    precision = max(len(digits), len(fraction), 1)
    if exponent is not None or precision > _MOST_DIGITS:
        number = float(text)
        if math.isinf(number):
            raise ValueError("it is beyond the range of a double")
        return pa.scalar(number, pa.float64())
    unscaled = int(sign + (digits or "0"))
    if not fraction and -(2**63) <= unscaled < 2**63:
        return pa.scalar(unscaled, pa.int64())
    kind = pa.decimal128 if precision <= 38 else pa.decimal256
    value = decimal.Decimal((int(sign == "-"), tuple(map(int, digits or "0")), -len(fraction)))
    return pa.scalar(value, kind(precision, len(fraction)))


def _days(year: str, month: str, day: str) -> int:
    if int(year) > dt.MAXYEAR:
        raise ValueError("years beyond 9999 are not supported")
    return (dt.date(int(year), int(month), int(day)) - _EPOCH).days


def _nanoseconds(hour: str, minute: str, second: str | None, fraction: str | None) -> int:
    if int(hour) > 23 or int(minute) > 59 or int(second or 0) > 59:
        raise ValueError("its time of day does not exist")
    seconds = int(hour) * 3600 + int(minute) * 60 + int(second or 0)
    return seconds * 10**9 + int((fraction or "0").ljust(9, "0"))


def _in_finest_unit(nanoseconds: int) -> tuple[int, str]:
    """Microseconds if they are exact, else nanoseconds."""
    whole, rest = divmod(nanoseconds, 1000)
    if rest == 0:
        return whole, "us"
    if not -(2**63) <= nanoseconds < 2**63:
        raise ValueError("nanoseconds reach only from 1677 to 2262")
    return nanoseconds, "ns"


def date_from_text(text: str) -> pa.Scalar:
    """Read ``YYYY-MM-DD``."""
    match = _DATE_ONLY.fullmatch(text.strip())
    if match is None:
        raise ValueError("it is not a date (YYYY-MM-DD)")
    return storage_scalar(_days(*match.groups()), pa.date32())


def time_from_text(text: str) -> pa.Scalar:
    """Read ``HH:MM[:SS[.fraction]]``."""
    match = _TIME_ONLY.fullmatch(text.strip())
    if match is None:
        raise ValueError("it is not a time (HH:MM[:SS[.fraction]])")
    number, unit = _in_finest_unit(_nanoseconds(*match.groups()))
    return storage_scalar(number, pa.time64(unit))


def timestamp_from_text(text: str, *, zoned: bool) -> pa.Scalar:
    """Read ``YYYY-MM-DD[ HH:MM[:SS[.fraction]][zone]]``; with ``zoned`` an absent zone is UTC."""
    match = _TIMESTAMP.fullmatch(text.strip())
    if match is None:
        raise ValueError("it is not a timestamp (YYYY-MM-DD HH:MM:SS[.fraction][+HH:MM])")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if zone is not None and not zoned:
        raise ValueError("it names a zone where none is kept (TIMESTAMPTZ keeps one)")
    nanoseconds = _days(year, month, day) * _NANOSECONDS_PER_DAY
    if hour is not None:
        nanoseconds += _nanoseconds(hour, minute, second, fraction)
    if zone is not None and zone[0] in "+-":
        hours, minutes = int(zone[1:3].rstrip(":")), int(zone[-2:]) if len(zone) > 3 else 0
        nanoseconds -= (hours * 3600 + minutes * 60) * 10**9 * (-1 if zone[0] == "-" else 1)
    number, unit = _in_finest_unit(nanoseconds)
    return storage_scalar(number, pa.timestamp(unit, "UTC" if zoned else None))


def binary_from_text(text: str) -> pa.Scalar:
    r"""Read a byte string as DuckDB writes it: ASCII, other bytes as ``\xNN``."""
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError as error:
        raise ValueError(r"a byte string is written in ASCII, other bytes as \xNN") from error
    if rb"\x" in _ESCAPED_BYTE.sub(b"", raw):
        raise ValueError(r"\x must be followed by two hexadecimal digits")
    return pa.scalar(_ESCAPED_BYTE.sub(lambda found: bytes.fromhex(found[1].decode()), raw), pa.binary())


def _float_from_text(text: str) -> pa.Scalar:
    special = {"nan": math.nan, "inf": math.inf, "infinity": math.inf}
    bare = text.strip().lower()
    if bare.lstrip("+-") in special:
        return pa.scalar(-special[bare[1:]] if bare[0] == "-" else special[bare.lstrip("+")], pa.float64())
    return number_from_text(text)


def _boolean_from_text(text: str) -> pa.Scalar:
    known = {"true": True, "t": True, "false": False, "f": False}
    if text.strip().lower() not in known:
        raise ValueError("it is neither 'true' nor 'false'")
    return pa.scalar(known[text.strip().lower()])


def scalar_from_text(text: str, dtype: pa.DataType) -> pa.Scalar:
    """Read ``text`` as a constant to be compared with values of ``dtype``.

    The scalar is exact, of the same family of types, and not necessarily of ``dtype`` itself.

    Raises
    ------
    ValueError
        If the text is not written as such a value.
    """
    is_ = pa.types
    if is_.is_date(dtype):
        return date_from_text(text)
    if is_.is_timestamp(dtype):
        return timestamp_from_text(text, zoned=dtype.tz is not None)
    if is_.is_time(dtype):
        return time_from_text(text)
    if is_.is_boolean(dtype):
        return _boolean_from_text(text)
    if is_.is_floating(dtype):
        return _float_from_text(text)
    if is_.is_integer(dtype) or is_.is_decimal(dtype):
        return number_from_text(text)
    if is_binary_like(dtype):
        return binary_from_text(text)
    raise ValueError(f"text cannot be read as {dtype}")


def cast_scalar(value: pa.Scalar, dtype: pa.DataType) -> pa.Scalar:
    """Convert a constant to ``dtype`` exactly; only to floating point types it is rounded.

    Raises
    ------
    ValueError
        If ``dtype`` has no such value.
    """
    is_ = pa.types
    if value.type == dtype or not value.is_valid:
        return value.cast(dtype)
    if is_.is_string(value.type):
        value = value if is_.is_string(dtype) else scalar_from_text(value.as_py(), dtype)
    if is_.is_floating(dtype) and (is_.is_decimal(value.type) or is_.is_integer(value.type)):
        value = pa.scalar(float(value.as_py()), pa.float64())
    if is_.is_string(dtype) and not is_.is_string(value.type):
        raise ValueError("write it in single quotes")
    try:
        if is_.is_decimal(dtype) and not is_.is_floating(value.type):
            return pa.scalar(decimal.Decimal(value.as_py()), dtype)
        return value if value.type == dtype else value.cast(dtype, safe=not is_.is_floating(dtype))
    except pa.ArrowException as error:
        raise ValueError(f"{dtype} has no such value") from error


def interval_from_text(text: str, unit: str) -> pa.Scalar:
    """Read an interval of a fixed length, as a duration; months and years have none."""
    seconds = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400, "WEEK": 604_800}
    fine = {"MILLISECOND": "ms", "MICROSECOND": "us", "NANOSECOND": "ns"}
    name = unit.upper().rstrip("S")
    if not re.fullmatch(r"[+-]?\d{1,15}", text.strip()) or (name not in seconds and name not in fine):
        raise ValueError("an interval is a whole number of weeks, days, hours, minutes, seconds or less")
    if name in fine:
        return storage_scalar(int(text), pa.duration(fine[name]))
    return storage_scalar(int(text) * seconds[name], pa.duration("s"))


def shifted(moment: pa.Scalar, interval: pa.Scalar, sign: int) -> pa.Scalar:
    """Add a duration to a date or timestamp constant (or subtract it); the result is a timestamp."""
    dtype = moment.type
    if pa.types.is_date32(dtype):
        nanoseconds, zone = moment.value * _NANOSECONDS_PER_DAY, None
    else:
        nanoseconds, zone = moment.value * (10**9 // _PER_SECOND[dtype.unit]), dtype.tz
    nanoseconds += sign * interval.value * (10**9 // _PER_SECOND[interval.type.unit])
    number, unit = _in_finest_unit(nanoseconds)
    return storage_scalar(number, pa.timestamp(unit, zone))


def text_sql(text: str) -> str:
    """Quote ``text`` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


_TYPE_NAMES = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.date32(): "DATE",
    pa.time64("us"): "TIME",
    pa.timestamp("us"): "TIMESTAMP",
    pa.timestamp("s"): "TIMESTAMP_S",
    pa.timestamp("ms"): "TIMESTAMP_MS",
    pa.timestamp("ns"): "TIMESTAMP_NS",
    pa.timestamp("us", "UTC"): "TIMESTAMPTZ",
}


def type_sql(dtype: pa.DataType) -> str:
    """Spell a type as DuckDB does; a type it has no name for is spelled as Arrow does."""
    if pa.types.is_decimal(dtype):
        return f"DECIMAL({dtype.precision}, {dtype.scale})"
    return _TYPE_NAMES.get(dtype, str(dtype))


def literal_sql(value: pa.Scalar) -> str:
    """Spell a constant as SQL text that reads back as the same value."""
    dtype, is_ = value.type, pa.types
    if not value.is_valid:
        return "NULL"
    if is_.is_boolean(dtype):
        return "TRUE" if value.as_py() else "FALSE"
    if is_.is_integer(dtype):
        return str(value.as_py())
    if is_.is_decimal(dtype):
        return f"{value.as_py():f}"
    if is_.is_floating(dtype):
        return _float_sql(float(value.as_py()), single=not is_.is_float64(dtype))
    if is_binary_like(dtype):
        return "'" + "".join(f"\\x{byte:02X}" for byte in value.as_py()) + "'::BLOB"
    if is_.is_date(dtype) or is_.is_timestamp(dtype) or is_.is_time(dtype):
        return _moment_sql(value)
    if is_.is_duration(dtype):
        return f"INTERVAL '{value.value}' {_UNIT_NAMES[dtype.unit]}"
    return text_sql(str(value.as_py()))


_UNIT_NAMES = {"s": "SECOND", "ms": "MILLISECOND", "us": "MICROSECOND", "ns": "NANOSECOND"}
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def _float_sql(number: float, *, single: bool) -> str:
    if single or math.isnan(number) or math.isinf(number):
        return f"CAST('{number}' AS {'FLOAT' if single else 'DOUBLE'})"
    text = repr(number)
    return text if "e" in text else f"{text}e0"  # an exponent is what makes a double in SQL


def _moment_sql(value: pa.Scalar) -> str:
    dtype, is_ = value.type, pa.types
    if is_.is_date32(dtype):
        per_second, number = 1, value.value * 86_400
    else:
        per_second, number = _PER_SECOND["ms" if is_.is_date64(dtype) else dtype.unit], value.value
    seconds, rest = divmod(number, per_second)
    days, second = divmod(seconds, 86_400)
    digits = len(str(per_second)) - 1
    clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}" + (
        f".{rest:0{digits}}" if rest else ""
    )
    if is_.is_time(dtype):
        return f"TIME '{clock}'"
    try:
        day = (_EPOCH + dt.timedelta(days=days)).isoformat()
    except OverflowError:
        return f"CAST({number} AS {dtype})"  # outside the calendar: for people only
    if is_.is_date32(dtype) or (is_.is_date64(dtype) and second == rest == 0):
        return f"DATE '{day}'"
    keyword = "TIMESTAMPTZ" if not is_.is_date(dtype) and dtype.tz is not None else "TIMESTAMP"
    return f"{keyword} '{day} {clock}{'+00:00' if keyword == 'TIMESTAMPTZ' else ''}'"
