"""`python -m nots` is the command `nots`."""

from nots.cli import main

main()
