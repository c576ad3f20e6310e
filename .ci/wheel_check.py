"""Uses an installed siglip-med from an empty folder: ``.ci/wheel`` runs it with the Python that has the wheel.

Each line below is one that a user types; the first that fails, or does not say what it should, stops the check.
"""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import siglip_med

SMALL = ("data.source.n_images=200", "callbacks.progress=null")


def main(programs: Path) -> None:
    """Checks the package where it lies, then the commands one after the other.

    Args:
        programs: the folder of the console scripts.
    """
    home = Path(siglip_med.__file__).parent
    checkout = Path(os.environ["SIGLIP_MED_CHECKOUT"])
    _require(home.is_relative_to(sys.prefix), f"siglip_med comes from {home}, not from the wheel")
    seen = [path for path in sys.path if Path(path).resolve() in (checkout, checkout / "siglip_med")]
    _require(not seen, f"the checkout is on sys.path: {seen}")
    stated = importlib.metadata.version("siglip-med")
    _require(siglip_med.__version__ == stated, f"__version__ is {siglip_med.__version__}, the wheel's {stated}")
    before = _files(home)

    scripts = importlib.metadata.distribution("siglip-med").entry_points.select(group="console_scripts")
    _require(bool(scripts), "the wheel installs no commands")
    for script in scripts:
        _says(_run(programs / script.name, "--help"), "Examples:", "Settings")
    train = (programs / "siglip-med-train", "experiment=layered", "trainer.max_steps=4", "evaluation.bootstrap=20")
    _says(_run(*train, *SMALL), "R@1", "macro R@5", "class prior")
    (folder,) = Path("logs/finetune/runs").iterdir()
    checkpoint = f"checkpoint={folder / 'checkpoints' / 'best.ckpt'}"
    photographs = next(Path(".cache/synthetic").glob("*/images"))
    predict = (programs / "siglip-med-predict", checkpoint, f"images={photographs}", "top_k=2", "device=cpu")
    _says(_run(*predict), "ICD-10-CM", "predictions.csv")
    _says(_run(programs / "siglip-med-export", checkpoint, "format=merged", "output=exported"), "wrote exported")
    _require(Path("exported/model.safetensors").is_file(), "the exported folder holds no model.safetensors")
    _says(_run(programs / "siglip-med-evaluate", checkpoint, "report.bootstrap=20"), "report:")
    _says(_run(sys.executable, "-m", "siglip_med.conditions", "show"), "Eczema", "L30.9")

    written = sorted(str(path) for path in _files(home) - before)
    _require(not written, f"the commands wrote into the installed package: {', '.join(written)}")
    made = {path.name for path in Path.cwd().iterdir()}
    _require(made == {"logs", ".cache", "exported"}, f"the commands left {', '.join(sorted(made))}")
    print(f"siglip-med {stated} works where it is installed ({home})")


def _run(*words: object) -> str:
    line = [str(word) for word in words]
    print("$", Path(line[0]).name, *line[1:], flush=True)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    _require(done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _says(printed: str, *words: str) -> None:
    absent = [word for word in words if word not in printed]
    _require(not absent, f"it does not say {absent}:\n{printed}")


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(f"the wheel fails: {otherwise}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
