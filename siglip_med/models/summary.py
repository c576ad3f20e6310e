"""How much of a model is trained, and whether all of that learns."""

from collections.abc import Iterable
from typing import Literal

from rich.table import Table
from torch import nn

from siglip_med.core.errors import UserError

Component = Literal["vision", "text", "heads", "logits"]
_TITLES: dict[Component, str] = {
    "vision": "vision tower",
    "text": "text tower",
    "heads": "projections",
    "logits": "scale and bias",
}


def parameter_table(title: str, parameters: Iterable[tuple[Component, nn.Parameter]]) -> Table:
    """A table of all and of trained parameters by part."""
    every, trained = dict.fromkeys(_TITLES, 0), dict.fromkeys(_TITLES, 0)
    for part, parameter in parameters:
        every[part] += parameter.numel()
        trained[part] += parameter.numel() * parameter.requires_grad
    rows = [(text, every[part], trained[part]) for part, text in _TITLES.items()]
    rows.append(("all", sum(every.values()), sum(trained.values())))
    table = Table(title=title)
    for heading in ("part", "parameters", "trained", "share"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    for text, total, learned in rows:
        table.add_row(text, f"{total:,}", f"{learned:,}", f"{learned / max(1, total):.2%}")
    return table


def check_gradients(model: nn.Module) -> None:
    """Fails if a trainable parameter got no gradient; call it after the first backward pass.

    An adapter on a layer that is never called trains nothing, says nothing, and stops distributed training.

    Raises:
        UserError: lists the parameters that no gradient reached.
    """
    dead = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    if dead:
        names = ", ".join(dead[:4]) + (", …" if len(dead) > 4 else "")
        raise UserError(
            f"{len(dead)} trainable parameters got no gradient in the first step ({names}): the loss does not reach "
            "them; leave them out of model.adaptation, or set model.logits.train_bias=false if it is the bias alone"
        )
