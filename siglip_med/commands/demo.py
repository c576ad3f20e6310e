"""Shows a trained model on a page to click: a photograph dropped there gets a differential and what it rests on."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from siglip_med.core.extras import require
from siglip_med.core.outside import Console
from siglip_med.core.signals import interruptible
from siglip_med.data.splitting.report import SplitReport
from siglip_med.demo.answers import Answerer
from siglip_med.demo.limits import Limits
from siglip_med.inference import load
from siglip_med.inference.neighbours import beside
from siglip_med.metrics import CHOOSING, Predictions, table_label
from siglip_med.models import Device, read_checkpoint
from siglip_med.report.checklist import external_line, stated
from siglip_med.runs.external import read_external
from siglip_med.runs.folder import read_record, run_folder
from siglip_med.runs.stored import saved_predictions

if TYPE_CHECKING:
    from siglip_med.demo.server import DemoServer

_HEADLINE = ("r_at_1", "r_at_5", CHOOSING)


class Settings(BaseModel):
    """Top level of ``conf/demo.yaml``.

    Attributes:
        checkpoint: of a fine-tuning run, or the folder of an export with format=merged.
        base: path of the base if it moved, as in `load_model`.
        trust: dotted names of code of one's own that the checkpoint may build, e.g. ``[my_towers.mine]``.
        device: where the model runs.
        host: the address that the page listens on.
        port: 0 takes any that is free.
        token: that the page's address carries; None for a random one, ``none`` for none, on this machine alone.
        top_k: conditions in a differential.
        coverage: that the slider of the prediction set starts with.
        limits: of a visitor.
    """

    model_config = ConfigDict(extra="forbid")

    checkpoint: str
    base: str | dict[str, str] | None
    trust: list[str] = []
    device: Device
    host: str
    port: Annotated[int, Field(ge=0, le=65_535)]
    token: str | None
    top_k: PositiveInt
    coverage: Annotated[float, Field(ge=0.5, le=0.99)]
    limits: Limits


@dataclass(frozen=True)
class Result:
    """A page that is ready: the port is taken, the model loaded.

    Attributes:
        server: that will serve it.
        answerer: the model.
        coverage: that the slider starts with.
        lacking: a sentence on the training cases where they or their pictures are missing; else empty.
    """

    server: "DemoServer"
    answerer: Answerer
    coverage: float
    lacking: str


def run(settings: Settings) -> Result:
    """Takes the port and loads the model with the files beside it.

    Raises:
        UserError: Gradio is missing, the port is taken, or the checkpoint, its base or the device is not available.
    """
    require("gradio", feature="siglip-med-demo", extra="demo")
    from siglip_med.demo.server import DemoServer

    server = DemoServer(settings.host, settings.port, settings.limits, settings.token)
    try:
        answerer, lacking = build_answerer(settings)
    except BaseException:
        server.close()
        raise
    return Result(server, answerer, settings.coverage, lacking)


def build_answerer(settings: Settings) -> tuple[Answerer, str]:
    """The model with the files beside it, and a sentence on missing training cases; errors as in `run`.

    Args:
        settings: of the command.
    """
    checkpoint = Path(settings.checkpoint)
    classifier = load(checkpoint, settings.base, settings.device, settings.trust)
    training, lacking = beside(checkpoint, classifier.model)
    answerer = Answerer(
        classifier,
        settings.checkpoint,
        settings.limits.pixels,
        settings.top_k,
        *predictions_of(checkpoint),
        training,
        about(checkpoint, classifier.payload),
    )
    return answerer, lacking


def about(checkpoint: Path, payload: Mapping[str, Any]) -> tuple[str, ...]:
    """When the model was trained, on how much, and what tests found: a sentence each, also for what is not recorded.

    Args:
        checkpoint: with the files of its run around it; of an export nothing is.
        payload: of the checkpoint.

    Raises:
        UserError: a file of the run is damaged.
    """
    folder = checkpoint if checkpoint.is_dir() else run_folder(checkpoint)
    record, split = read_record(folder), SplitReport.load(folder / "split_report.json")
    began = None if record is None else datetime.fromtimestamp(record["started"], UTC).strftime("%Y-%m-%d")
    size = None if split is None else f"{split.images['train']:,} images of {split.cases['train']:,} cases"
    of = (
        ""
        if split is None
        else f" on {split.images['test']:,} images of {split.cases['test']:,} cases of the same data"
    )
    metrics, conditions = payload.get("metrics") or {}, len(payload["conditions"])
    told = [f"{table_label(name, conditions)} {stated(metrics[name])}" for name in _HEADLINE if name in metrics]
    prior = ((payload.get("baselines") or {}).get("label_frequency") or {}).get("r_at_1")
    told += [f"always naming the most frequent condition: R@1 {stated(prior)}"] if prior and told else []
    elsewhere = [external_line(name, found) for name, found in read_external(folder).items()]
    when, much = began or "on a day that is not recorded here", size or "a number of images that is not recorded here"
    return (
        f"Trained {when}, on {much}.",
        f"Tested{of}: {', '.join(told)}." if told else "Its test is not recorded here; the card of an export has it.",
        f"Tested elsewhere: {'; '.join(elsewhere)}." if elsewhere else "No test on another data set is recorded here.",
    )


def predictions_of(checkpoint: Path) -> tuple[Predictions | None, Predictions | None]:
    """What the checkpoint's run predicted for validation and test; None, None for an export or a checkpoint alone.

    Raises:
        UserError: predictions are there but cannot be read.
    """
    if checkpoint.is_dir():
        return None, None
    found = saved_predictions(run_folder(checkpoint), read_checkpoint(checkpoint)["siglip_med"]) or {}
    return found.get("val"), found.get("test")


def show(result: Result) -> None:
    """Serves the page until the process is stopped, and prints its address."""
    from siglip_med.demo.server import is_loopback

    def say(text: str) -> None:
        Console().print(f"  {text}", soft_wrap=True, highlight=False)

    if result.answerer.validation is None:
        say("no prediction sets: there are no validation predictions of this checkpoint beside it")
    if result.lacking:
        say(result.lacking)
    if not is_loopback(result.server.host):
        say(
            f"warning: host={result.server.host} lets everyone who has the address below, token included, drop "
            "photographs and read answers from other machines, without encryption: whoever sees the traffic sees both"
        )
    if result.server.token is None:
        say("token=none: every user of this machine can open the page and use the model")
    try:
        with interruptible(), result.server.running(result.answerer, result.coverage) as url:
            say(f"page: {url} (Ctrl-C ends it)")
            threading.Event().wait()
    finally:
        say("ended; every photograph is forgotten")
