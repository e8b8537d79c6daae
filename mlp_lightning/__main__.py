"""``python -m mlp_lightning`` is ``mlp-lightning``."""

from mlp_lightning.cli.start import main

if __name__ == "__main__":
    main()
