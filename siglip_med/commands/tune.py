"""Tunes losses alike: equally many trials for each, on the same draws of one space, chosen on validation.

Each experiment is a study of Optuna in one journal in the folder, and each trial a run of ``train.py`` in a folder of
its own. A trial is known by its position among its experiment's trials. The same command on the same folder does what
is left, and several of them at once share it.
"""

import gc
import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from filelock import FileLock, Timeout
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from lightning.pytorch import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    StrictBool,
    StrictFloat,
    StrictInt,
    model_validator,
)
from rich.table import Table

from siglip_med.commands import train
from siglip_med.core.config import Builds, Node, config_dir, typed
from siglip_med.core.errors import UserError, one_line
from siglip_med.core.extras import require
from siglip_med.core.files import write_csv
from siglip_med.core.outside import Console, say
from siglip_med.core.shell import in_quotes, null_groups_removed, other_command
from siglip_med.metrics import LOWER_IS_BETTER
from siglip_med.runs.settings import FineTuneSettings
from siglip_med.training.pruning import Pruned, open_storage

JOURNAL = "tune.journal"
Value = StrictBool | StrictInt | StrictFloat | str | None
_STATES = {"PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "left": "left"}
_HEADINGS = ("experiment", "trials", "metric", "with its defaults", "with the chosen", "chosen settings")


class Knob(BaseModel):
    """One setting to tune: a range, or choices.

    Attributes:
        key: the setting, ``optimizer.learning_rate``; or one for each experiment that has it, ``{softmax: …}``.
        low: smallest value of a range.
        high: largest value of a range.
        log: draw evenly on the logarithmic scale.
        integer: whole numbers alone.
        choices: values to draw from, in place of a range.
    """

    model_config = ConfigDict(extra="forbid")

    key: str | dict[str, str]
    low: StrictInt | StrictFloat | None = None
    high: StrictInt | StrictFloat | None = None
    log: StrictBool = False
    integer: StrictBool = False
    choices: Annotated[list[Value], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        range_ = (self.low, self.high)
        if (self.choices is None and None in range_) or (self.choices and (range_ != (None, None) or self.log)):
            raise ValueError("give low and high, or choices")
        if self.integer and any(bound != int(bound or 0) for bound in range_):
            raise ValueError("low and high must be whole numbers where integer is true")
        self.distribution()  # Optuna refuses an empty range, and a logarithmic one that begins at 0
        return self

    def ends(self) -> list[Any]:
        """The values that show whether the whole knob is possible: both bounds, or every choice."""
        bounds = [self.low, self.high]
        return self.choices or ([int(bound or 0) for bound in bounds] if self.integer else bounds)

    def distribution(self) -> Any:
        """What Optuna draws from."""
        kinds: Any = require("optuna", "siglip-med-tune", "sweep").distributions
        if self.choices is not None:
            return kinds.CategoricalDistribution(self.choices)
        kind = kinds.IntDistribution if self.integer else kinds.FloatDistribution
        return kind(*self.ends(), log=self.log)


class Settings(BaseModel):
    """Top level of ``conf/tune.yaml``.

    Attributes:
        folder: of the study.
        experiments: of ``conf/experiment/``, each tuned by itself.
        overrides: words of ``train.py`` for every trial.
        metric: of validation, that chooses.
        trials: settings that each experiment tries; the first are its defaults.
        seed: of the draws.
        sampler: ``random`` draws alike for every experiment; ``tpe`` samples each by itself after ``startup`` trials
            (tree-structured Parzen estimator, Bergstra et al. 2011).
        startup: random trials before ``tpe`` takes over.
        pruning: the callback that ends hopeless trials; None lets every trial finish.
        space: what is tuned, by a short name.
    """

    model_config = ConfigDict(extra="forbid")

    folder: str
    experiments: Annotated[list[str], Field(min_length=1)]
    overrides: list[str]
    metric: str
    trials: PositiveInt
    seed: NonNegativeInt
    sampler: Literal["random", "tpe"]
    startup: PositiveInt
    pruning: Annotated[Node | None, Builds(Callback, given=("monitor", "journal", "study", "trial"))]
    space: Annotated[dict[str, Knob], Field(min_length=1)]

    def words(self, experiment: str, values: Mapping[str, Value]) -> list[str]:
        """The overrides of a trial; a knob that the experiment does not have adds none.

        Args:
            experiment: its name.
            values: of the trial, by name of the knob; none are the defaults.
        """
        keys = {name: self.key(name, experiment) for name in values}
        return [f"{keys[name]}={_text(value)}" for name, value in values.items() if keys[name]]

    def key(self, knob: str, experiment: str) -> str | None:
        """The setting that a knob is in an experiment; None where it has none of this kind."""
        key = self.space[knob].key
        return key if isinstance(key, str) else key.get(experiment)


@dataclass(frozen=True)
class Result:
    """What a study has found so far.

    Attributes:
        settings: of the study.
        studies: Optuna's, by experiment.
    """

    settings: Settings
    studies: Mapping[str, Any]


def run(settings: Settings) -> Result:
    """Does the trials that are left and that no other process is doing.

    Raises:
        UserError: Optuna is missing, a setting is wrong, the metric is of the test split, or the folder's trials
            belong to another space.
    """
    optuna: Any = require("optuna", "siglip-med-tune", "sweep")
    folder = Path(settings.folder).resolve()
    there = GlobalHydra.instance().is_initialized()
    with nullcontext() if there else initialize_config_dir(version_base="1.3", config_dir=str(config_dir().resolve())):
        directions = {name: _check(settings, name) for name in settings.experiments}
        say(f"{len(directions)} experiments, {settings.trials} trials each; to resume: the same command again")
        folder.mkdir(parents=True, exist_ok=True)
        studies = {name: _study(optuna, folder, settings, name, way) for name, way in directions.items()}
        for slot, (name, study) in product(range(settings.trials), studies.items()):
            place = folder / name / f"{slot:03d}"
            place.parent.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout), FileLock(f"{place}.lock", timeout=0):  # a killed process loses it
                _do(optuna, study, settings, name, slot, place)
    return Result(settings, studies)


def show(result: Result) -> None:
    """Prints and writes ``tune.csv``: for each experiment its trials, the best of them, and how to train with it.

    Raises:
        SystemExit: a trial failed.
    """
    settings, rows, commands, failed = result.settings, [], [], []
    console = Console(width=max(Console().width, 150))
    for name, study in result.studies.items():
        found = [_of_slot(study, slot) for slot in range(settings.trials)]
        states = ["left" if trial is None else trial.state.name for trial in found]
        others = [f"{states.count(state)} {word}" for state, word in _STATES.items() if state in states]
        complete = [trial for trial in found if trial is not None and trial.state.name == "COMPLETE"]
        sign = -1 if study.direction.name == "MINIMIZE" else 1
        best = max(complete, key=lambda trial: sign * trial.value, default=None)  # the first of equals
        words = [] if best is None else settings.words(name, best.params)
        rows.append(
            (
                name,
                f"{len(found)} ({', '.join(others)})" if others else str(len(found)),
                settings.metric,
                round(found[0].value, 4) if found[0] in complete else "–",
                "–" if best is None else round(best.value, 4),
                "none: no trial finished" if best is None else " ".join(words) or "the defaults",
            )
        )
        if best is not None:
            typed_words = map(shlex.quote, _replaced([f"experiment={name}", *settings.overrides], words))
            commands.append(f"  {other_command('train')} -m {' '.join(typed_words)} seed=1,2,3")
        failed += [
            f"{name} {slot:03d}: {found[slot].user_attrs['reason']}"
            for slot, state in enumerate(states)
            if state == "FAIL"
        ]
    write_csv(Path(settings.folder) / "tune.csv", _HEADINGS, rows)
    table = Table(*_HEADINGS, title=f"chosen on validation, {settings.trials} trials each: {settings.folder}")
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)
    if commands:
        console.print("the best of several trials on one validation split flatters itself; to judge what was chosen:")
        console.print("\n".join(commands), soft_wrap=True, highlight=False)
    if failed:
        say("\n".join([f"{len(failed)} trials failed; the same command tries them again:", *failed]))
        raise SystemExit(1)


# ---- what there is to do -------------------------------------------------------------------------------------------


def _composed(settings: Settings, experiment: str, trial: Sequence[str]) -> DictConfig:
    """The config of ``train.py`` for a trial, and that of its words which replace others."""
    search = HydraConfig.get().searchpath if HydraConfig.initialized() else []
    places = [f"hydra.searchpath=[{','.join(map(in_quotes, search))}]"] if search else []
    words = _replaced([f"experiment={experiment}", "trainer.devices=1", "refit=null", *settings.overrides], trial)
    try:
        config = compose("train", overrides=[*null_groups_removed(config_dir(), "train", words), *places])
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(one_line(error)) from error
    with open_dict(config):
        config.optimized_metric = settings.metric
    return config


def _replaced(words: Sequence[str], trial: Sequence[str]) -> list[str]:
    """Words of a command line with those of a trial in place of its own."""
    tried = {word.split("=", 1)[0] for word in trial}
    return [*(word for word in words if word.split("=", 1)[0] not in tried), *trial]


def _check(settings: Settings, experiment: str) -> str:
    """Tries the defaults and all ends of the space on an experiment; returns the direction of its metric."""

    def checked(trial: Sequence[str]) -> FineTuneSettings:
        config = _composed(settings, experiment, trial)
        config.paths.output_dir = str(Path(settings.folder).resolve() / experiment)
        found = typed(config, FineTuneSettings)
        train.check_start(found)
        return found

    plain = checked([])
    devices = plain.trainer["devices"]
    if devices != 1 and not (isinstance(devices, list) and len(devices) == 1):
        raise UserError(f"trainer.devices={devices}: a trial has one device; start the command once for each device")
    ends = {name: knob.ends() for name, knob in settings.space.items() if settings.key(name, experiment)}
    for position in range(max(map(len, ends.values()), default=0)):  # all knobs at once, each at one of its ends
        words = settings.words(experiment, {name: values[position % len(values)] for name, values in ends.items()})
        try:
            checked(words)
        except UserError as error:
            raise UserError(f"space: {error} (experiment={experiment} with {' '.join(words)})") from error
    if absent := [name for name in settings.space if name not in ends]:
        say(f"  {experiment}: not tuned, for it has no key for it: {', '.join(absent)}")
    short = settings.metric.rpartition("/")[2]
    lower = plain.mode == "min" if settings.metric.endswith(plain.monitor) else short in {*LOWER_IS_BETTER, "loss"}
    return "minimize" if lower else "maximize"


def _study(optuna: Any, folder: Path, settings: Settings, experiment: str, direction: str) -> Any:
    """The study of an experiment, new or as it was left."""
    study = optuna.create_study(
        storage=open_storage(folder / JOURNAL), study_name=experiment, direction=direction, load_if_exists=True
    )
    about = settings.model_dump(mode="json", include={"space", "metric", "seed", "sampler", "startup", "overrides"})
    before = study.user_attrs.get("about", about)
    if changed := [key for key in about if before.get(key) != about[key]]:
        raise UserError(
            f"{changed[0]}: the trials of {experiment} in {folder} had {json.dumps(before.get(changed[0]))}; give "
            "another folder, or the settings that it had"
        )
    study.set_user_attr("about", about)
    return study


# ---- one trial -----------------------------------------------------------------------------------------------------


def _of_slot(study: Any, slot: int) -> Any:
    """The last trial of a position: one that failed is tried again under a new number."""
    found = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("slot") == slot]
    return found[-1] if found else None


def _trial(optuna: Any, study: Any, settings: Settings, slot: int) -> Any:
    """The trial of a position: the interrupted one, the settings of the one that failed, or new ones."""
    before, states = _of_slot(study, slot), optuna.trial.TrialState
    if before is None:
        # A fresh sampler for each trial, and knobs drawn also where an experiment has none: a draw is a function of
        # seed, position and space (and with tpe of what is known by then), for every experiment and after a kill.
        seed = settings.seed * 100_003 + slot
        if settings.sampler == "random" or slot < settings.startup:
            study.sampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True)
        space = {name: knob.distribution() for name, knob in settings.space.items()} if slot else {}
        study.ask(space).set_user_attr("slot", slot)
    elif before.state == states.FAIL:
        about = {"params": before.params, "distributions": before.distributions, "user_attrs": {"slot": slot}}
        study.add_trial(optuna.trial.create_trial(state=states.RUNNING, **about))
    return optuna.trial.Trial(study, _of_slot(study, slot)._trial_id)


def _do(optuna: Any, study: Any, settings: Settings, experiment: str, slot: int, folder: Path) -> None:
    """Does a trial unless it is over, and writes down how it ended."""
    before = _of_slot(study, slot)
    if before is not None and before.state.name in ("COMPLETE", "PRUNED"):
        return
    trial, state = _trial(optuna, study, settings, slot), optuna.trial.TrialState
    words = settings.words(experiment, trial.params)
    say(f"{experiment} {slot:03d}: {' '.join(words) or 'its defaults'}")
    try:
        value = _train(settings, experiment, words, folder, trial.number)
    except Pruned as pruned:
        say(f"pruned: {pruned}")
        trial.set_user_attr("reason", str(pruned))
        study.tell(trial, state=state.PRUNED)
    except Exception as error:  # a wrong setting, a bug, or a library's: it belongs to this trial alone
        reason = " ".join((str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}").split())
        trial.set_user_attr("reason", reason)
        study.tell(trial, state=state.FAIL)
        say(f"failed: {reason}")
    else:
        study.tell(trial, value)
    finally:
        gc.collect()  # the model of this trial, before that of the next
        torch.cuda.empty_cache()


def _train(settings: Settings, experiment: str, words: Sequence[str], folder: Path, number: int) -> float:
    """Trains in the trial's run folder, from its checkpoint where it was interrupted; returns the metric."""
    config = _composed(settings, experiment, words)
    with open_dict(config):
        config.paths.output_dir = str(folder)
        config.resume = "auto" if (folder / "run.json").is_file() else None
        if settings.pruning is not None:
            config.callbacks.pruning = settings.pruning | {
                "monitor": config.monitor,
                "journal": str(Path(settings.folder).resolve() / JOURNAL),
                "study": experiment,
                "trial": number,
            }
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    OmegaConf.save(OmegaConf.create([f"experiment={experiment}", *words]), folder / ".hydra" / "overrides.yaml")
    objective = train.run(typed(config, FineTuneSettings)).objective
    assert objective is not None
    return objective


def _text(value: Value) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return in_quotes(value) if isinstance(value, str) else repr(value)
