"""How the numbers depend on how alike the nearest training image looks."""

from siglip_med.metrics import table_label
from siglip_med.metrics.nearness import by_nearness
from siglip_med.report.evidence import PROBES, RUN, Evidence
from siglip_med.report.page import Section, Table, bounds, number

_METRICS = ("r_at_1", "r_at_5", "mrr", "icd_distance_all")


def look_alikes_section(evidence: Evidence) -> Section:
    """Headline metrics by quarters of the cosine to the nearest training image, the probes' R@1 beside them."""
    title, conditions = "How near is the training set?", len(evidence.test.conditions)
    test, resampling = evidence.test, evidence.settings.resampling
    if not len(test.nearest):
        said = (
            "Not looked for: the run kept no features of its base (features=cached, or evaluation.probe_images above "
            "0), or data.look_alikes=off."
        )
        return Section("look_alikes", title, (said,))
    table = by_nearness(test, _METRICS, resampling)
    beside = {name: by_nearness(known, ("r_at_1",), resampling) for name, known in evidence.probes.items()}
    beside = {name: found for name, found in beside.items() if len(found)}
    rows = []
    for place, row in enumerate(table.to_dict("records")):
        cells = [f"{number(row[name])} {bounds(row[f'{name}_low'], row[f'{name}_high'])}" for name in _METRICS]
        probed = [number(float(found["r_at_1"].iloc[place])) for found in beside.values()]
        near = f"{row['low']:.3f} to {row['high']:.3f}"
        rows.append((near, f"{row['images']:,}", f"{row['cases']:,}", *cells, *probed))
    columns = ("nearest cosine", "images", "cases", *(table_label(name, conditions) for name in _METRICS))
    return Section(
        key="look_alikes",
        title=title,
        paragraphs=(
            test.meta.get("look_alikes", ""),
            "Quarters of the test images by the cosine of the base's frozen features to the nearest training image "
            "that was looked through. The same lesion in training and in test (another crop, another moment) is a "
            "leak: what remembers best gains most from it, so the first rows say more about new patients than the mean "
            "does. data.look_alikes=join puts look-alikes into one case; look_alikes.csv of the run folder lists them.",
        ),
        tables=(
            Table(
                f"{RUN} by nearness, the farthest first",
                (*columns, *(f"{name} R@1" for name in PROBES if name in beside)),
                tuple(rows),
            ),
        ),
        data={"quarters": table.to_dict("records")},
    )
