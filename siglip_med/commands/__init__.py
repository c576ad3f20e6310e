"""What a person types: one file per command, each with typed ``Settings``, ``run(settings) -> result`` and ``show``."""
