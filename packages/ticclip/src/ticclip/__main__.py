"""`python -m ticclip` is the command `ticclip`."""

from ticclip.cli import main

main()
