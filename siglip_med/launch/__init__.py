"""From a command line to a command: Hydra, jobs of a sweep, several processes, help."""

from functools import partial

from siglip_med.core.signals import Stopped, interruptible


def launch(command: str) -> None:
    """Runs a command as typed: the body of ``train.py`` and of the installed ``siglip-med-train``, for every command.

    A signal to stop ends it with one line and 128 + the signal from here on, before half a second of imports.

    Args:
        command: the name of a module of `siglip_med.commands`, which has ``Settings``, ``run`` and ``show``, and of its
            config in ``conf/``.
    """
    try:
        with interruptible() as interruption:
            interruption.leave = Stopped.say
            from siglip_med.launch import entry

            entry.launch(command, interruption)
    except Stopped as stopped:  # after its job, which says more
        stopped.say()
        raise SystemExit(stopped.exit_status) from None


NAMES = ("train", "tune", "evaluate", "predict", "embed", "export", "convert", "check", "labels", "demo")
train, tune, evaluate, predict, embed, export, convert, check, labels, demo = (partial(launch, name) for name in NAMES)
"""Entry points of the console scripts."""
