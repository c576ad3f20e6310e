"""``train.py -m sweep=tune``: every experiment gets the same number of trials over the same space, on validation.

Each experiment is a study of its own in one SQLite store in the sweep's folder. A trial is a job as any other
(`siglip_med.launch.jobs`), so that a sweep that is cut goes on where it stood.
"""

import copy
import importlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from siglip_med.core.config import check_arguments, typed
from siglip_med.core.errors import UserError
from siglip_med.core.extras import require
from siglip_med.core.files import write_csv, write_json
from siglip_med.core.shell import setting
from siglip_med.launch.command_line import plain_settings
from siglip_med.launch.jobs import job_key
from siglip_med.metrics import LOWER_IS_BETTER
from siglip_med.sweeps import Knob, TuneSettings, draw, read_record
from siglip_med.sweeps.space import words as words_of

STORE = "tune.db"
_OF_THE_SWEEP = ("sweep=", "launcher=", "callbacks.pruning")
_HEADINGS = ("experiment", "trials", "metric", "with its defaults", "with the chosen", "chosen settings")


@dataclass(frozen=True)
class Arm:
    """One experiment that is tuned by itself.

    Attributes:
        label: what it is called: the swept values.
        names: the swept values, by which a knob finds its key.
        words: its part of the command line, the sweep's common words too.
        space: the knobs that it has.
        direction: of the metric, ``maximize`` or ``minimize``.
        metric: that is optimized.
    """

    label: str
    names: tuple[str, ...]
    words: tuple[str, ...]
    space: Mapping[str, Knob]
    direction: str
    metric: str


def tune(
    settings: Mapping[str, Any],
    arguments: Sequence[str],
    config: DictConfig | None,
    context: HydraContext | None,
    task: TaskFunction | None,
) -> list[JobReturn]:
    """Runs what is left of a sweep that tunes, and shows what was chosen.

    Args:
        settings: ``hydra.sweeper`` of the config.
        arguments: the command line without Hydra's own words.
        config: of the sweep.
        context: Hydra's.
        task: does a job.

    Returns:
        The jobs of this process.

    Raises:
        UserError: a setting of the sweep is wrong, Optuna is missing, or the folder holds another sweep.
    """
    assert config is not None
    assert context is not None
    assert task is not None
    chosen = _checked(settings)
    optuna: Any = require("optuna", "sweep=tune", "sweep")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweep = Path(str(config.hydra.sweep.dir)).resolve()
    arms = [_arm(chosen, *combination, config, context, sweep) for combination in _combinations(chosen, arguments)]
    _say_space(chosen, arms)
    sweep.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, sweep / "multirun.yaml")
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    studies = {arm.label: _study(optuna, sweep, chosen, arm) for arm in arms}
    size = chosen.batch or int(OmegaConf.select(config, "hydra.launcher.n_jobs", default=1) or 1)
    left = [(slot, arm) for slot in range(chosen.trials) for arm in arms]
    left = [(slot, arm) for slot, arm in left if not _is_over(studies[arm.label], slot)]
    returns: list[JobReturn] = []
    for batch in _batches(left, max(size, 1) if size > 0 else len(left)):
        trials = [_trial(optuna, studies[arm.label], chosen, arm, slot) for slot, arm in batch]
        jobs = [
            [*_merged(arm.words, _words(arm, trial)), *_pruning(config, sweep, arm, trial)]
            for (_, arm), trial in zip(batch, trials, strict=True)
        ]
        done = launcher.launch(jobs, initial_job_idx=len(returns))
        for (_, arm), trial, job in zip(batch, trials, done, strict=True):
            _tell(optuna, studies[arm.label], trial, sweep, job)
        returns += done
    _show(optuna, sweep, chosen, arms, studies)
    return returns


# ---- what there is to do -------------------------------------------------------------------------------------------


def _checked(settings: Mapping[str, Any]) -> TuneSettings:
    check_arguments("hydra.sweeper", TuneSettings, "sweep=tune", settings)
    for name, node in (settings.get("space") or {}).items():
        if not isinstance(node, Mapping):
            raise UserError(f"hydra.sweeper.space.{name}: give key with low and high, or with choices, not {node!r}")
        check_arguments(f"hydra.sweeper.space.{name}", Knob, "a setting to tune", node)
    from pydantic import ValidationError

    try:
        return TuneSettings.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"hydra.sweeper.{name}: {message[0].lower()}{message[1:]}") from error


def _combinations(settings: TuneSettings, arguments: Sequence[str]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The swept values and the words of every experiment."""
    try:
        parsed = OverridesParser.create().parse_overrides(
            [*(f"{key}={value}" for key, value in settings.params.items()), *arguments]
        )
    except HydraException as error:
        raise UserError(f"hydra.sweeper.params: {' '.join(str(error).split())}") from error
    last = {override.get_key_element(): override for override in parsed}  # the command line comes after params
    found: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((), ())]
    for key, override in last.items():
        if not override.is_sweep_override():
            value = override.get_value_element_as_str()
            word = override.input_line if override.is_delete() else f"{key}={value}"
            names = (value,) if key in settings.params else ()
            found = [((*known, *names), (*words, str(word))) for known, words in found]
            continue
        if key == "seed":
            raise UserError("seed: sweep=tune tunes on one seed; train what it chooses on several seeds afterwards")
        if not override.is_discrete_sweep():
            raise UserError(f"{override.input_line}: give a range in hydra.sweeper.space")
        values = [str(value) for value in override.sweep_string_iterator()]
        found = [((*known, value), (*words, f"{key}={value}")) for known, words in found for value in values]
    return found


def _arm(
    settings: TuneSettings,
    names: tuple[str, ...],
    words: tuple[str, ...],
    config: DictConfig,
    context: HydraContext,
    sweep: Path,
) -> Arm:
    """An experiment, with its defaults and both ends of every knob tried on its config."""
    module = importlib.import_module(f"siglip_med.commands.{config.hydra.job.config_name}")
    space = {name: knob for name, knob in settings.space.items() if knob.key_of(names) is not None}
    label = " ".join(names) or "defaults"

    def composed(trial: list[str]) -> Any:
        place = shlex.split(setting("paths.output_dir", sweep / "job"))[0]
        full = context.config_loader.load_sweep_config(config, [*words, *trial, place])
        return typed(OmegaConf.masked_copy(full, [str(key) for key in full if key != "hydra"]), module.Settings)

    def checked(trial: list[str]) -> Any:
        try:
            found = composed(trial)
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(" ".join(str(error).split())) from error
        module.check_start(found)
        return found

    plain = checked([])
    if plain.optimized_metric is None:
        raise UserError("optimized_metric: sweep=tune needs a metric of validation to choose by, e.g. tuned/val/mrr")
    ends = {name: knob.ends() for name, knob in space.items()}
    for position in range(max(map(len, ends.values()), default=0)):  # all knobs at once, each at one of its ends
        values = {name: values[position % len(values)] for name, values in ends.items()}
        try:
            checked(words_of(space, names, values))
        except UserError:
            for name, value in values.items():  # and one by one only to say which it is
                (word,) = words_of(space, names, {name: value})
                try:
                    checked([word])
                except UserError as error:
                    raise UserError(f"hydra.sweeper.space.{name}: {word} in {label}: {error}") from error
            raise
    metric = plain.optimized_metric
    short = metric.rpartition("/")[2]
    lower = plain.mode == "min" if metric.endswith(plain.monitor) else short in LOWER_IS_BETTER or short == "loss"
    return Arm(label, names, words, space, "minimize" if lower else "maximize", metric)


def _say_space(settings: TuneSettings, arms: Sequence[Arm]) -> None:
    say = Console(stderr=True)
    count = (
        f"{len(arms)} experiments, {settings.trials} trials each, drawn by {settings.sampler} (seed {settings.seed})"
    )
    say.print(f"tuning {count}; the first trial has the defaults", highlight=False, markup=False, soft_wrap=True)
    for arm in arms:
        absent = [name for name in settings.space if name not in arm.space]
        if absent:
            text = f"  {arm.label}: not tuned, for it has no key for it: {', '.join(absent)}"
            say.print(text, highlight=False, markup=False, soft_wrap=True)


# ---- trials --------------------------------------------------------------------------------------------------------


def _study(optuna: Any, sweep: Path, settings: TuneSettings, arm: Arm) -> Any:
    """The study of an experiment, new or as it was left.

    Raises:
        UserError: the folder's study searched another space, or otherwise.
    """
    study = optuna.create_study(
        storage=f"sqlite:///{sweep / STORE}", study_name=arm.label, direction=arm.direction, load_if_exists=True
    )
    about = {
        "space": {name: knob.model_dump(mode="json") for name, knob in arm.space.items()},
        "metric": arm.metric,
        "direction": arm.direction,
        **settings.model_dump(include={"seed", "sampler", "startup"}),
        "words": sorted(word for word in arm.words if not word.startswith(("launcher=", "sweep=", "logger"))),
    }
    before = study.user_attrs.get("about")
    if before is None:
        study.set_user_attr("about", about)
    elif before != about:
        key = next(key for key in about if before.get(key) != about[key])
        raise UserError(
            f"hydra.sweep.dir={sweep}: its trials of {arm.label} had another {key}, "
            f"{json.dumps(before.get(key))}; give another folder, or the settings that it had"
        )
    return study


def _of_slot(study: Any, slot: int) -> Any:
    """The last trial of a slot: one that failed is tried again under a new number."""
    found = [trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("slot") == slot]
    return found[-1] if found else None


def _is_over(study: Any, slot: int) -> bool:
    trial = _of_slot(study, slot)
    return trial is not None and trial.state.name in ("COMPLETE", "PRUNED")


def _trial(optuna: Any, study: Any, settings: TuneSettings, arm: Arm, slot: int) -> Any:
    """The trial of a slot: the one that was cut, the settings of the one that failed, or new ones."""
    before = _of_slot(study, slot)
    if before is not None and before.state.name == "RUNNING":
        return before
    distributions = {name: _distribution(optuna, knob) for name, knob in arm.space.items()} if slot else {}
    if before is not None:
        study.enqueue_trial(before.params, user_attrs={"slot": slot})
    elif slot == 0 or settings.sampler == "random" or slot < settings.startup:
        drawn = {name: draw(knob, name, settings.seed, slot) for name, knob in arm.space.items() if slot}
        study.enqueue_trial(drawn, user_attrs={"slot": slot})
    else:  # a fresh sampler for each trial: its draws are a function of seed, slot and what is known
        study.sampler = optuna.samplers.TPESampler(
            seed=settings.seed * 100_003 + slot, n_startup_trials=1, multivariate=True, warn_independent_sampling=False
        )
    trial = study.ask(distributions)
    trial.set_user_attr("slot", slot)
    return _of_slot(study, slot)


def _distribution(optuna: Any, knob: Knob) -> Any:
    if knob.choices is not None:
        return optuna.distributions.CategoricalDistribution(knob.choices)
    if knob.integer:
        return optuna.distributions.IntDistribution(int(knob.low or 0), int(knob.high or 0), log=knob.log)
    return optuna.distributions.FloatDistribution(float(knob.low or 0), float(knob.high or 0), log=knob.log)


def _words(arm: Arm, trial: Any) -> list[str]:
    return words_of(arm.space, arm.names, {name: trial.params[name] for name in arm.space if name in trial.params})


def _merged(words: Sequence[str], trial: Sequence[str]) -> list[str]:
    """The words of an experiment with those of a trial in place of its own."""
    tried = {word.split("=", 1)[0] for word in trial}
    return [*(word for word in words if word.split("=", 1)[0] not in tried), *trial]


def _pruning(config: DictConfig, sweep: Path, arm: Arm, trial: Any) -> list[str]:
    """What the callback that prunes has to know."""
    if OmegaConf.select(config, "callbacks.pruning") is None:
        return []
    given = {"store": str(sweep / STORE), "study": arm.label}
    texts = [f"++{shlex.split(setting(f'callbacks.pruning.{key}', value))[0]}" for key, value in given.items()]
    return [*texts, f"++callbacks.pruning.trial={trial.number}"]


def _tell(optuna: Any, study: Any, trial: Any, sweep: Path, job: JobReturn) -> None:
    """Writes down how a trial ended."""
    state = optuna.trial.TrialState
    _ = job.return_value  # raises what Hydra could not hand to the job
    assert job.hydra_cfg is not None
    settings = copy.deepcopy(job.cfg)
    assert isinstance(settings, DictConfig)
    settings.paths.output_dir = job.hydra_cfg.hydra.runtime.output_dir
    record = read_record(sweep, job_key(plain_settings(settings)))
    if record is not None:
        open_ = study._storage
        open_.set_trial_user_attr(trial._trial_id, "folder", record.folder)
        open_.set_trial_user_attr(trial._trial_id, "reason", record.reason)
    if record is not None and record.state == "finished" and record.objective is not None:
        study.tell(trial.number, record.objective)
    elif record is not None and record.state == "pruned":
        study.tell(trial.number, state=state.PRUNED)
    else:
        study.tell(trial.number, state=state.FAIL)


def _batches(jobs: Sequence[tuple[int, Arm]], size: int) -> Iterator[Sequence[tuple[int, Arm]]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


# ---- what was found ------------------------------------------------------------------------------------------------


def _show(optuna: Any, sweep: Path, settings: TuneSettings, arms: Sequence[Arm], studies: Mapping[str, Any]) -> None:
    """Prints and writes ``tune.csv`` and ``tune.json``: for each experiment its trials, and the best of them."""
    rows, chosen = [], []
    for arm in arms:
        study = studies[arm.label]
        ends = [_of_slot(study, slot) for slot in range(settings.trials)]
        counts = {name: sum(trial.state.name == name for trial in ends) for name in ("COMPLETE", "PRUNED", "FAIL")}
        complete = [trial for trial in ends if trial.state.name == "COMPLETE"]
        sign = -1 if arm.direction == "minimize" else 1
        best = max(complete, key=lambda trial: sign * trial.value, default=None)  # the first among equals
        defaults = ends[0].value if ends[0].state.name == "COMPLETE" else None
        others = [
            f"{count} {word}" for word, count in (("pruned", counts["PRUNED"]), ("failed", counts["FAIL"])) if count
        ]
        words = [] if best is None else _words(arm, best)
        rows.append(
            (
                arm.label,
                f"{len(ends)} ({', '.join(others)})" if others else str(len(ends)),
                arm.metric,
                "–" if defaults is None else f"{defaults:.4f}",
                "–" if best is None else f"{best.value:.4f}",
                "none: no trial finished" if best is None else " ".join(words) or "the defaults",
            )
        )
        chosen.append(
            {
                "experiment": arm.label,
                "trials": len(ends),
                "pruned": counts["PRUNED"],
                "failed": counts["FAIL"],
                "metric": arm.metric,
                "defaults": defaults,
                "chosen": None if best is None else best.value,
                "settings": words,
                "words": _merged([word for word in arm.words if not word.startswith(_OF_THE_SWEEP)], words),
                "folder": None if best is None else best.user_attrs.get("folder"),
            }
        )
    write_csv(sweep / "tune.csv", _HEADINGS, rows)
    write_json(sweep / "tune.json", chosen)
    table = Table(title=f"chosen on validation, {settings.trials} trials each: {sweep}")
    for position, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if position in (3, 4) else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(width=max(Console().width, 150))
    console.print(table)
    if not any(one["chosen"] is not None for one in chosen):
        return
    console.print("the best of several trials on one validation split flatters itself; to judge what was chosen:")
    for one in (one for one in chosen if one["chosen"] is not None):
        typed_words = " ".join(map(shlex.quote, one["words"]))
        console.print(f"  python train.py -m {typed_words} seed=1,2,3", soft_wrap=True, highlight=False, markup=False)
