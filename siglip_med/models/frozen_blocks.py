"""The frozen first blocks of a tower: their output is computed once, and the later blocks resume from it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from siglip_med.core.errors import UserError

_LAYERS = ("encoder.layers", "encoder.layer", "transformer.layer", "layers", "layer")


class FrozenBlocks:
    """The first n blocks of a transformer of the transformers library, split off without a second copy of its forward.

    The library's own forward runs in both halves. To get the states after block n, the later blocks are passed
    through; to resume from given states, the embeddings and block n return those states and the blocks before n are
    passed through. So masks, norms and pooling are the library's, whatever the family.
    """

    def __init__(self, tower: nn.Module, blocks: int, name: str) -> None:
        """Finds the first n blocks, n at least 1; a UserError where the tower has no such parts, or no more blocks."""
        layers = encoder_layers(tower)
        if layers is None or not isinstance(getattr(tower, "embeddings", None), nn.Module):
            raise UserError(
                f"model.adaptation.first_block: {type(tower).__name__} does not name its embeddings and blocks as "
                "SigLIP, CLIP, DINOv2, ViT or BERT do; set it to 0"
            )
        if blocks >= len(layers):
            raise UserError(
                f"model.adaptation.first_block={blocks}: the {name} tower has {len(layers)} blocks, numbered from 0; "
                f"give at most {len(layers) - 1}, or freeze it with model.adaptation.towers"
            )
        self._name, self._checked = name, False
        self._embeddings: nn.Module = tower.embeddings  # type: ignore[assignment]
        self._first, self._last, self._rest = layers[: blocks - 1], layers[blocks - 1], layers[blocks:]

    def frozen_modules(self) -> list[nn.Module]:
        """What never changes: the embeddings and the first n blocks."""
        return [self._embeddings, *self._first, self._last]

    def states(self, run: Callable[[], object]) -> Tensor:
        """``[N, L, D]`` output of block n while ``run`` calls the tower on N inputs."""
        found: list[Tensor] = []
        handle = self._last.register_forward_hook(lambda module, inputs, output: found.append(output))
        try:
            with as_written([self._last]), replaced_forwards(dict.fromkeys(self._rest, _pass_through)):
                run()
        finally:
            handle.remove()
        return found[0]

    def check(self, states: Tensor, run: Callable[[], Tensor]) -> None:
        """Makes sure, once, that resuming from ``states`` gives what ``run`` of the whole tower gives.

        Raises:
            UserError: the results differ: the tower uses its input beyond the embeddings.
        """
        if self._checked:
            return
        whole = run()
        with self.resumed(states):
            difference = (run() - whole).abs().max() / whole.abs().max()
        if not difference < 1e-2:
            raise UserError(
                f"model.adaptation.first_block: the {self._name} tower gives something else from the kept states of "
                f"its first blocks (off by {float(difference):.2g} of the largest value); set it to 0"
            )
        self._checked = True

    @contextmanager
    def resumed(self, states: Tensor) -> Iterator[None]:
        """While it is open, the tower resumes from ``[N, L, D]`` states in place of its input."""
        given = dict.fromkeys((self._embeddings, self._last), lambda *args, **kwargs: states)
        with replaced_forwards(given | dict.fromkeys(self._first, _pass_through)):
            yield


def encoder_layers(tower: nn.Module) -> nn.ModuleList | None:
    """The list of a tower's blocks; None where it is not where the families of the library have it."""
    for path in _LAYERS:
        try:
            layers = tower.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(layers, nn.ModuleList):
            return layers
    return None


def _pass_through(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states


@contextmanager
def as_written(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While it is open, modules that were compiled in place run as they are written."""
    compiled = [(module, module._compiled_call_impl) for module in modules if module._compiled_call_impl is not None]
    for module, _ in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in compiled:
            module._compiled_call_impl = call


@contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """While it is open, modules run other functions, not compiled; calls may be nested."""
    before = {module: vars(module).get("forward") for module in forwards}
    for module, function in forwards.items():
        module.forward = function
    try:
        with as_written(forwards):
            yield
    finally:
        for module, function_before in before.items():
            if function_before is None:
                del module.forward  # the class's own shows again
            else:
                module.forward = function_before
