"""Ranges of settings that several packages share."""

from typing import Annotated

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1)]
"""A share in [0, 1]."""
PositiveShare = Annotated[float, Field(gt=0, le=1)]
"""A share in (0, 1]."""
UNFAMILIAR = 0.05
"""Familiarity below which an image is unlike those that the model was trained on: 95% of validation are kept."""
Coverage = Annotated[float, Field(gt=0, lt=1)]
"""Coverage of an interval or of a prediction set, in (0, 1)."""
