"""`python -m muscle` is the command `muscle`."""

from muscle.cli import main

main()
