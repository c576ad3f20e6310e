"""The site's pages lie as they do in the repository, so that a link that works there works on the site, and is checked.

MkDocs takes pages from one folder. This hook puts the README and the studies beside ``docs/``, and copies each file of
the repository that a page links to. A page that no group below names stands under *More*.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
GROUPS = {
    "Guides": [
        "training",
        "own",
        "jobs",
        "docker",
        "data",
        "images",
        "losses",
        "geometry",
        "models",
        "metrics",
        "report",
        "demo",
    ],
    "Behind it": ["architecture", "reliability", "performance", "synthetic"],
}
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
_FENCE = re.compile(r"^ *```.*?^ *```", flags=re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation, from the pages that are there."""
    guides = {page.stem: f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))}
    nav: list[dict] = [{"Home": "README.md"}]
    for title, names in GROUPS.items():
        nav.append({title: [guides.pop(name) for name in names if name in guides]})
    if guides:
        nav.append({"More": list(guides.values())})
    studies = sorted((ROOT / "experiments").glob("**/README.md"), key=lambda page: (len(page.parts), page))
    nav.append({"Studies": [str(page.relative_to(ROOT)) for page in studies]})
    nav.append({"API": [str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs/api").glob("*.md"))]})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages of the navigation and what they link to, in place of the files of ``docs/``."""
    for file in list(files.documentation_pages()) + list(files.media_files()):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    pages = [ROOT / name for name in _pages(config.nav)]
    wanted = {*pages, *(target for page in pages for target in _linked(page))}
    for path in sorted(wanted):
        name = str(path.relative_to(ROOT))
        file = File(name, str(ROOT), config.site_dir, config.use_directory_urls)
        file.inclusion = InclusionLevel.INCLUDED if path in pages else InclusionLevel.NOT_IN_NAV
        files.append(file)
    return files


def _pages(nav: list) -> list[str]:
    found = []
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += _pages(value) if isinstance(value, list) else [value]
    return found


def _linked(page: Path) -> set[Path]:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    targets = {(page.parent / link).resolve() for link in _LINK.findall(text) if "://" not in link}
    return {path for path in targets if path.is_file() and path.is_relative_to(ROOT)}
