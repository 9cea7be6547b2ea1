"""The command `tenfold`: reproduce, bench, check, affected, release. For this repository only, never published."""
