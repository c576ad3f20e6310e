"""The front matter of a model card: what the hub sorts, filters and tabulates by."""

from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from siglip_med.core.provenance import Provenance
from siglip_med.metrics import metric_label

_TASK = "zero-shot-image-classification"


def front_matter(
    name: str,
    license: str,
    library: str,
    base: str | None,
    pipeline: bool,
    provenance: Provenance | None,
    metrics: Iterable[Mapping[str, Any]],
) -> str:
    """YAML between its two lines of dashes, with a ``model-index`` where there are results.

    Args:
        name: of the model.
        license: of the exported files, as the hub spells it.
        library: that loads them.
        base: id of the base model on the hub, or None.
        pipeline: whether transformers' pipeline loads the folder.
        provenance: of the images that it was tested on.
        metrics: rows with ``name`` and ``estimate``, of the test split.
    """
    kind = provenance.kind if provenance else "unknown images"
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
