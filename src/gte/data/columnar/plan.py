"""The columns in which the texts of plain rows stand, and their types."""

from dataclasses import dataclass, field

import pyarrow as pa

from gte.data.records import Field, Fields

TEXT, TEXTS, NUMBER = pa.string(), pa.list_(pa.string()), pa.float64()


@dataclass(frozen=True)
class Plan:
    """Where the texts of plain rows stand.

    kind: "object" (rows are objects, or columns of a table), "list" or "set". types: Arrow's of the columns that are
    read. query: its column, or several to join. document, negatives: columns. absent: columns that a plain row must not
    have. alone: whether it has no other columns. positions: of a list: query's, document's and negative's, which may be
    None; without any, all texts behind the second one are negatives.
    """

    kind: str
    types: dict[str, pa.DataType] = field(default_factory=dict)
    query: str | list[str] | None = None
    document: str | list[str] | None = None
    negatives: str | None = None
    absent: tuple[str, ...] = ()
    alone: bool = False
    positions: tuple[int, int, int | None] | None = None


def wanted(query: Field, document: Field, negatives: Field, fields: Fields) -> list:
    """The columns that are read."""
    names = [query, document, negatives, fields.answers, fields.score, *fields.keep, *fields.drop]
    flat = [name for one in names for name in (one if isinstance(one, list) else [one])]
    return list(dict.fromkeys(name for name in flat if name is not None))


def object_plan(
    types: dict, query: Field, document: Field, negatives: Field, fields: Fields, absent: tuple[str, ...] = ()
) -> Plan | None:
    """The plan for objects or a table with columns of these types; None where they are not what the roles need."""

    def is_one_of(names: Field, *kinds: pa.DataType) -> bool:
        return all(types.get(name) in kinds for name in (names if isinstance(names, list) else [names]))

    several = (TEXT,) if isinstance(document, list) else (TEXT, TEXTS)
    plain = (
        (is_one_of(query, TEXT) and is_one_of(document, *several))
        and (negatives is None or (not isinstance(negatives, list) and is_one_of(negatives, TEXT, TEXTS)))
        and (fields.answers is None or is_one_of(fields.answers, TEXT, TEXTS))
        and (fields.score is None or is_one_of(fields.score, NUMBER))
        and all(comparable(types.get(name), values) for name, values in fields.drop.items())
        and all(comparable(types.get(name), values) or are_numbers(types.get(name), values)
                for name, values in fields.keep.items())
    )  # fmt: skip
    return Plan("object", types, query, document, negatives, absent) if plain else None


def are_numbers(kind: pa.DataType | None, values: object) -> bool:
    """Whether Arrow finds no number among a filter's that Python does not; those it misses, as -0.0, Python reads."""
    values = [value for value in (values if isinstance(values, list) else [values]) if value is not None]
    return kind == NUMBER and all(type(value) in (int, float) and abs(value) < 2**53 for value in values)


def comparable(kind: pa.DataType | None, values: object) -> bool:
    """Whether Arrow compares a column with a filter's values as Python does; null equals null alone."""
    if kind is None:
        return False
    kinds = {type(value) for value in (values if isinstance(values, list) else [values]) if value is not None}
    return kinds <= {TEXT: {str}, pa.bool_(): {bool}}.get(kind, set())
