"""What a model or a number was made from: drawings or photographs, of which data set, under which license."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from siglip_med.core.errors import UserError, first_fault

NOT_STATED = "not stated"


@dataclass(frozen=True)
class Provenance:
    """Where images come from. A source states it; checkpoints, predictions, cards and reports repeat it.

    Attributes:
        kind: ``drawings`` are made by a program, ``photographs`` show people.
        name: of the data set.
        license: as its authors write it.
    """

    kind: Literal["drawings", "photographs"] = "photographs"
    name: str = NOT_STATED
    license: str = NOT_STATED

    @classmethod
    def read(cls, stored: Mapping[str, object] | None, where: str) -> "Provenance | None":
        """The provenance in a file; None where it has none.

        Args:
            stored: what `as_dict` gave.
            where: the file, for the message.

        Raises:
            UserError: the entry is damaged.
        """
        if not stored:
            return None
        try:
            return TypeAdapter(cls).validate_python(dict(stored))
        except ValidationError as error:
            raise UserError(f"{where}: its provenance is damaged: {first_fault(error)}") from error

    @property
    def said(self) -> str:
        """The kind in one word or two: what nobody named is not known to be of people."""
        return NOT_STATED if self.name == NOT_STATED else self.kind

    def as_dict(self) -> dict[str, str]:
        """Plain texts by name."""
        return asdict(self)


def sentence(provenance: Provenance | None) -> str:
    """The first line of whatever is made of it.

    Examples:
        >>> sentence(Provenance("photographs", "SCIN", "SCIN Data Use License"))
        'Made from photographs of people: SCIN, license: SCIN Data Use License.'
    """
    if provenance is None:
        return (
            "Made from images that do not say whether they are photographs or drawings: "
            "this was written by an earlier version."
        )
    if provenance.kind == "drawings":
        return (
            f"Made from DRAWINGS, not from photographs ({provenance.name}, license: {provenance.license}): every "
            "number here shows that the program works, and none says anything about skin."
        )
    if provenance.name == NOT_STATED:
        return "Images: what they are is not stated (data.source.dataset_name and data.source.license say it)."
    return f"Made from photographs of people: {provenance.name}, license: {provenance.license}."


def described(node: Mapping[str, object]) -> str:
    """A node of a config on one line: what it builds, and its plain values but for paths of somebody's machine."""
    name = str(node.get("_target_", "")).rpartition(".")[2]
    values = [
        f"{key}={value}"
        for key, value in node.items()
        if isinstance(value, bool | int | float | str) and not key.startswith("_") and not {"/", "\\"} & set(str(value))
    ]
    return f"{name} ({', '.join(values)})" if values else name
