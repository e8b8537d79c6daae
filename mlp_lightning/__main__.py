"""``python -m mlp_lightning`` is ``mlp-lightning``."""

import sys

if __name__ == "__main__":
    # Python puts the current folder first: its files must not run in the place of libraries.
    if not sys.flags.safe_path:
        del sys.path[0]

    from mlp_lightning.cli.start import main

    main()
