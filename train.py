"""The command line: ``python train.py fit|validate|test --config relu.yaml``."""

from mlp_lightning.cli.start import main

if __name__ == "__main__":
    main()
