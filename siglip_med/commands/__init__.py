"""What a person types: one file a command, each with typed ``Settings``, ``run(settings) -> result`` and ``show``."""
