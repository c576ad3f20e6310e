"""The model card: what was trained on what, how well it did, and what it must not be used for."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from siglip_med.core.outside import finalize, markdown
from siglip_med.core.provenance import Provenance, described, sentence
from siglip_med.export.example import HUB_ID, example
from siglip_med.export.recipes import Format, needs_this_project, text_recipe
from siglip_med.metrics import BASELINES, metric_label, table_label
from siglip_med.models import DualEncoder, TwoTower
from siglip_med.models.refit import REFIT_FILE

_TASK = "zero-shot-image-classification"
_LIBRARIES = {"peft": "peft", "merged": "transformers", "onnx": "onnx", "open_clip": "open_clip"}


def model_card(model: TwoTower, payload: Mapping[str, Any], format: Format, license: str) -> str:
    """Fills the card from a checkpoint's payload.

    Args:
        model: the trained model.
        payload: from `load_model`.
        format: format of the folder that holds the card.
        license: of the exported files, as the Hugging Face hub spells it (e.g. ``apache-2.0``, ``cc-by-nc-4.0``).

    Returns:
        Markdown with the hub's front matter. What the checkpoint lacks is marked as missing.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
        finalize=finalize(markdown),
    )
    base = payload["base"] | {"name": _public(payload["base"]["name"])}
    config = payload["config"]
    title = f"{base['name']}, adapted to {len(payload['conditions'])} skin conditions"
    base_id = base["name"] if HUB_ID.fullmatch(base["name"]) else None
    provenance = Provenance.read(payload.get("provenance"), "the checkpoint")
    rows, refit = metric_rows(payload["metrics"]), payload.get("refit")
    alone = not needs_this_project(model, format)
    pipeline = format == "merged" and alone and not isinstance(model, DualEncoder)
    library = _LIBRARIES[format] if alone else "siglip-med"
    return environment.get_template("model_card.md.jinja").render(
        front_matter=Markup(front_matter(title, license, library, base_id, pipeline, provenance, rows)),
        notice=sentence(provenance),
        provenance=provenance,
        title=title,
        license=license,
        base=base,
        adaptation=_settings(config.get("model", {}).get("adaptation")) or type(model.adaptation).__name__,
        format=format,
        data=_settings(config.get("data")) or "not recorded",
        split_hash=payload["split_hash"] or "not recorded",
        account=[line.removeprefix("- ") for line in payload.get("account", ())],
        look_alikes=payload.get("look_alikes") or "",
        scale=model.logit_scale.exp().item(),
        bias=model.logit_bias.item(),
        calibration=payload["calibration"],
        results=result_rows(payload),
        judged=payload.get("test_size", "images that are not counted in this checkpoint"),
        baselines=[BASELINES[key] for key in _beside(payload)],
        refit=refit["about"] if refit else "",
        refit_file="vision.onnx" if format == "onnx" else REFIT_FILE,
        coverage=config.get("evaluation", {}).get("coverage"),
        recipe=Markup(f"```python\n{example(model, format, bool(refit), bool(payload.get('familiarity')))}```"),
        needs_us=not alone,
        side=model.image_spec.size,
        mean=list(model.image_spec.mean),
        std=list(model.image_spec.std),
        texts=Markup(text_recipe(model)),  # its own code, between backticks
        conditions=list(zip(payload["conditions"], payload["codes"], strict=True)),
    )


def front_matter(
    name: str,
    license: str,
    library: str,
    base: str | None,
    pipeline: bool,
    provenance: Provenance | None,
    metrics: Iterable[Mapping[str, Any]],
) -> str:
    """YAML between its two lines of dashes, with a ``model-index`` of the test split where there are results.

    ``license`` as the hub spells it, ``base`` its id there, ``pipeline``: whether transformers' loads the folder;
    ``metrics`` are rows with ``name`` and ``estimate``, on images of ``provenance``.
    """
    kind = provenance.kind if provenance and provenance.said == provenance.kind else "unknown images"
    dataset = provenance.name if provenance else "not recorded"
    results = [
        EvalResult(
            task_type=_TASK,
            dataset_type=kind,
            dataset_name=f"{dataset} (drawings)" if kind == "drawings" else dataset,
            dataset_split="test",
            metric_type=row["name"],
            metric_name=metric_label(row["name"]),
            metric_value=round(float(row["estimate"]), 6),
        )
        for row in metrics
    ]
    data = ModelCardData(
        license=license,
        library_name=library,
        base_model=base,
        pipeline_tag=_TASK if pipeline else None,
        tags=["dermatology", "siglip-med", *(["synthetic-data"] if kind == "drawings" else [])],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _public(name: str) -> str:
    """Names of base models as a stranger may read them: ids of the hub as they are, of folders the last part alone."""
    parts = name.split(" + ")
    return " + ".join(part if HUB_ID.fullmatch(part) else PurePath(part).name for part in parts)


def metric_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``name``, ``estimate``, ``low`` and ``high`` of metrics that are mappings with the last three, or numbers."""
    rows = []
    for name, value in metrics.items():
        known = value if isinstance(value, Mapping) else {"estimate": value}
        rows.append({"name": name, "low": known.get("low"), "high": known.get("high"), "estimate": known["estimate"]})
    return rows


def result_rows(payload: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows of the results table: metric, the model, and the baselines that the payload holds, with their intervals."""
    beside = payload.get("baselines") or {}
    rows = []
    for row in metric_rows(payload["metrics"]):
        cells = [table_label(row["name"], len(payload["conditions"])), _with_interval(row)]
        for key in _beside(payload):
            known = beside.get(key)
            cells.append("not measured" if known is None else _with_interval(known.get(row["name"])))
        rows.append(tuple(cells))
    return rows


def _beside(payload: Mapping[str, Any]) -> list[str]:
    """Keys of the baselines; prompts are beside a refit alone."""
    return [key for key in BASELINES if key != "prompts" or key in (payload.get("baselines") or {})]


def _with_interval(value: Mapping[str, Any] | None) -> str:
    """``0.483 (0.431 to 0.530)``; what is undefined is a dash."""
    if value is None or value["estimate"] is None:
        return "–"
    if value["low"] is None or value["high"] is None:
        return f"{value['estimate']:.3f} (no interval)"
    return f"{value['estimate']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _settings(node: Any) -> str:
    inner = node.get("source", node) if isinstance(node, Mapping) else None
    return described(inner) if isinstance(inner, Mapping) else ""
