"""For a notebook: a model from arrays, with its curves, its proofs and its files."""
