"""`python -m mobileclip` is the command `mobileclip`."""

from mobileclip.cli import main

main()
