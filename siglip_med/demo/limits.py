"""How much a visitor of the page may ask for."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from siglip_med.data.images import MAX_PIXELS_LIMIT


class Limits(BaseModel):
    """The ``limits`` node of ``conf/demo.yaml``.

    Attributes:
        files: photographs dropped at once.
        megabytes: of one file; a larger one is refused while it comes in.
        pixels: width times height above which a file is refused before it is decoded.
        prompts: sentences scored at once.
        visitors: open tabs that are remembered; the one that was idle longest is forgotten first.
        minutes: after which an idle tab's photographs are forgotten.
        queue: requests that may wait; the page says that it is busy to more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: Annotated[int, Field(ge=1, le=100)]
    megabytes: PositiveFloat
    pixels: Annotated[int, Field(ge=1, le=MAX_PIXELS_LIMIT)]
    prompts: PositiveInt
    visitors: PositiveInt
    minutes: PositiveFloat
    queue: PositiveInt

    @property
    def file_bytes(self) -> int:
        """Largest file in bytes: a megabyte of 2^20, as the browser counts them."""
        return int(self.megabytes * 2**20)
