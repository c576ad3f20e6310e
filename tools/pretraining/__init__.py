"""How the tiny base of the embedded default was made: pretraining on drawings and their captions."""
