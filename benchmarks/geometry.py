"""How long D takes: ``python benchmarks/geometry.py`` (66 conditions, then 2,000 random ICD-10-CM codes)."""

import csv
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from siglip_med.conditions import MEASURES, dissimilarity, known_conditions, load_conditions
from siglip_med.conditions.codes import read_code_book

REPEATS = 5


def import_seconds() -> float:
    """Fastest import of the package in a fresh interpreter, less the interpreter's own start."""

    def run(program: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        return time.perf_counter() - start

    return min(run("import siglip_med.conditions") for _ in range(REPEATS)) - min(run("") for _ in range(REPEATS))


def catalog_seconds() -> float:
    """First look-up and D of the 66 conditions in this process, tables unread."""
    start = time.perf_counter()
    dissimilarity(load_conditions(known_conditions()))
    return time.perf_counter() - start


def random_codes_seconds(count: int, measure: str) -> float:
    """Reading a map of random codes and computing their D, the list of all codes unread."""
    leaves = [code for code in read_code_book().codes.values() if code.leaf]
    chosen = random.Random(0).sample(leaves, count)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codes.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = [(f"condition {number}", code.code) for number, code in enumerate(chosen)]
            csv.writer(file).writerows([("condition", "code"), *rows])
        read_code_book.cache_clear()
        start = time.perf_counter()
        dissimilarity(load_conditions([name for name, _ in rows], path), measure=measure)
        return time.perf_counter() - start


def main() -> None:
    """Prints the figures as a Markdown table."""
    print("| what | seconds |\n| --- | --- |")
    print(f"| 66 conditions: look-up and D, first call | {catalog_seconds():.4f} |")
    print(f"| import of siglip_med.conditions | {import_seconds():.3f} |")
    for measure in MEASURES:
        print(
            f"| 2,000 random codes: list of codes, map and D ({measure}) | {random_codes_seconds(2000, measure):.2f} |"
        )
    libraries = [name for name in ("simple_icd_10_cm", "torch", "pandas") if name in sys.modules]
    print(f"\nimported besides NumPy: {', '.join(libraries) or 'nothing'}")


if __name__ == "__main__":
    main()
