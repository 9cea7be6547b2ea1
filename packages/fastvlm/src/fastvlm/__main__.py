"""`python -m fastvlm` is the command `fastvlm`."""

from fastvlm.cli import main

main()
