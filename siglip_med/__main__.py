"""``python -m siglip_med``: the commands, a line each."""

from siglip_med.launch.help import overview

if __name__ == "__main__":
    print(overview(), end="")
