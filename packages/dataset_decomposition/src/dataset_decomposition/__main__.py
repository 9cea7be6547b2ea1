"""`python -m dataset_decomposition` is the command `dataset-decomposition`."""

from dataset_decomposition.cli import main

main()
