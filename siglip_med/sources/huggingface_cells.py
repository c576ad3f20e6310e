"""Columns of Hugging Face rows, plain or nested, and what their cells say."""

from collections.abc import Mapping, Sequence
from typing import Any

from siglip_med.core.errors import UserError
from siglip_med.core.extras import require


def library() -> Any:
    """The library `datasets`.

    Raises:
        UserError: it is not installed.
    """
    return require("datasets", feature="data=huggingface", extra="huggingface")


def top_column(name: str, columns: Sequence[str]) -> str | None:
    """The column that a dotted name begins with, the longest that fits; None where there is none."""
    parts = name.split(".")
    heads = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((head for head in heads if head in columns), None)


def value_of(row: Mapping[str, Any], column: str) -> Any:
    """A row's value in a column, or behind a dotted name in a nested one; None where it has none."""
    head = top_column(column, tuple(row))
    if head is None or head == column:
        return None if head is None else row[head]
    inner = row[head]
    return value_of(inner, column[len(head) + 1 :]) if isinstance(inner, Mapping) else None


def feature_of(features: Mapping[str, Any], column: str) -> Any:
    """The type of a column, as `value_of` finds it; that of JSON objects for whatever may be in them."""
    head = top_column(column, tuple(features))
    if head is None or head == column:
        return None if head is None else features[head]
    inner = features[head]
    if isinstance(inner, library().Json):
        return inner
    return feature_of(inner, column[len(head) + 1 :]) if isinstance(inner, Mapping) else None


def class_names(features: Mapping[str, Any] | None, column: str) -> list[str] | None:
    """Names behind the numbers of a column of class labels, or of lists of them."""
    feature = None if features is None else feature_of(features, column)
    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, library().ClassLabel) else None


def conditions_in(value: Any, names: Sequence[str] | None, where: str) -> list[str]:
    """The conditions of a cell: a text, a class label, or a list of them; class label -1 is not known.

    Raises:
        UserError: as `text_of`.
    """
    values = value if isinstance(value, list) else [] if value is None else [value]
    if names is not None:
        values = [names[item] for item in values if item >= 0]
    texts = (text_of(item, where).strip() for item in values)
    return list(dict.fromkeys(text for text in texts if text))


def text_of(value: Any, where: str) -> str:
    """A cell as text; "" where it is empty.

    Raises:
        UserError: it holds an object, or bytes that are no text.
    """
    if isinstance(value, Mapping):
        keys = ", ".join(map(str, value))
        raise UserError(f"{where}: holds several values ({keys}); name one of them behind a dot")
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: holds bytes that are no UTF-8 text") from error
    return "" if value is None else str(value)
