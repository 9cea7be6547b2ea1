"""`python -m physiomae` is the command `physiomae`."""

from physiomae.cli import main

main()
