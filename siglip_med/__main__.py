"""``python -m siglip_med``: the commands, a line each."""

from siglip_med import __version__
from siglip_med.launch.help import overview


def main() -> None:
    """Prints the commands."""
    print(f"siglip-med {__version__}\n\n{overview()}", end="")


if __name__ == "__main__":
    main()
