"""`python -m vfm_transfer` is the command `vfm-transfer`."""

from vfm_transfer.cli import main

main()
