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
    """YAML between its two lines of dashes, with a ``model-index`` of the test split where there are results.

    ``license`` as the hub spells it, ``base`` its id there, ``pipeline``: whether transformers' loads the folder;
    ``metrics`` are rows with ``name`` and ``estimate``, on images of ``provenance``.
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
