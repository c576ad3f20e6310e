"""How long a visitor of the page waits: from dropping a file to the differential on the screen.

    python benchmarks/page.py logs/…/best.ckpt drawing.jpg [--drops 20] [--browser /usr/bin/chromium]

Wall time is what the visitor feels, and other work on the machine lengthens it; processor time is that of the process
that serves the page (with the driver of the browser, which waits), and hardly changes.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from omegaconf import OmegaConf
from playwright.sync_api import sync_playwright

from siglip_med.commands.demo import Settings, build_answerer
from siglip_med.core.config import config_dir
from siglip_med.demo import views
from siglip_med.demo.server import DemoServer


def timed(call: Callable[[], object], times: int) -> str:
    """Median wall and processor seconds of a call, the first left out."""
    walls, costs = [], []
    for _ in range(times + 1):
        wall, cost = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        costs.append(time.process_time() - cost)
    return (
        f"{statistics.median(walls[1:]):.2f} s (longest {max(walls[1:]):.2f}), "
        f"{statistics.median(costs[1:]):.2f} s of processor time"
    )


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("drawing", type=Path)
    parser.add_argument("--drops", type=int, default=20)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    given = parser.parse_args()
    shipped = OmegaConf.to_container(OmegaConf.load(config_dir() / "demo.yaml"))
    assert isinstance(shipped, dict)
    del shipped["hydra"]
    settings = Settings.model_validate(shipped | {"checkpoint": str(given.checkpoint), "device": "cpu"})
    answerer, lacking = build_answerer(settings)
    print(lacking or f"beside the model: {len(answerer.training or ()):,} training cases")
    data = given.drawing.read_bytes()

    def alone() -> None:
        answer = answerer.answer(answerer.read(data, given.drawing.name))
        views.differential(answerer, answer)
        views.prediction_set(answerer, answer, answerer.prediction_set(answer, 0.9))
        views.tree(answerer, answer)
        views.neighbours(answerer, answer)

    print(f"the answer itself: {timed(alone, given.drops)}")
    answer = answerer.answer(answerer.read(data, given.drawing.name))
    print(f"a map: {timed(lambda: answerer.relevance(answer, answer.first), given.drops)}")
    print(f"its check: {timed(lambda: answerer.occlusion(answer, answer.first), given.drops)}")
    server = DemoServer("127.0.0.1", 0, settings.limits)
    with server.running(answerer, settings.coverage), sync_playwright() as play:
        browser = play.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(server.url)

        def drop() -> None:
            page.set_input_files("#sm-upload input[type=file]", str(given.drawing))
            page.wait_for_selector("#sm-differential tbody tr")
            page.wait_for_selector("#sm-photograph img")

        def reset() -> None:
            page.wait_for_selector("#sm-upload input[type=file]", state="attached")
            page.click("#sm-forget")
            page.wait_for_selector("#sm-differential", state="hidden")

        walls, costs = [], []
        for _ in range(given.drops + 1):
            page.wait_for_selector("#sm-upload input[type=file]", state="attached")
            wall, cost = time.perf_counter(), time.process_time()
            drop()
            walls.append(time.perf_counter() - wall)
            costs.append(time.process_time() - cost)
            reset()
        print(
            f"in the browser, from drop to differential: {statistics.median(walls[1:]):.2f} s (longest "
            f"{max(walls[1:]):.2f}; the first {walls[0]:.2f}), {statistics.median(costs[1:]):.2f} s of processor time"
        )
        browser.close()


if __name__ == "__main__":
    main()
