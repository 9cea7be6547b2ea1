"""`python -m qualityclip` is the command `qualityclip`."""

from qualityclip.cli import main

main()
