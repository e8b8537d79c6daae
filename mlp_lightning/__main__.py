"""``python -m mlp_lightning`` is ``python train.py``, from any folder."""

from mlp_lightning.cli.start import main

if __name__ == "__main__":
    main()
