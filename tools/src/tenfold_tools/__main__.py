"""`python -m tenfold_tools` is the command `tenfold`."""

from tenfold_tools.cli import main

main()
