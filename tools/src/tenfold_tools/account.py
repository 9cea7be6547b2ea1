"""pytest plugin that writes down what ran and what did not: `-p tenfold_tools.account`.

The file named by TENFOLD_ACCOUNT gets, as JSON, the identifiers of the tests that passed, failed, were
skipped, failed as expected, or were deselected. With xdist the workers hand their deselections to the main
process.
"""

import json
import os
from pathlib import Path
from typing import Any

OUTCOMES = ("passed", "failed", "skipped", "xfailed", "deselected")


class Account:
    """Collects outcomes in one pytest process."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.tests: dict[str, set[str]] = {outcome: set() for outcome in OUTCOMES}

    def pytest_deselected(self, items: list[Any]) -> None:
        """Note what `-m` and the like leave out."""
        self.tests["deselected"] |= {item.nodeid for item in items}

    def pytest_collectreport(self, report: Any) -> None:
        """Note files that cannot be imported or skip themselves as a whole."""
        if report.outcome in ("failed", "skipped"):
            self.tests[report.outcome].add(report.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note one phase of one test: any failure fails it, the call passes it."""
        if hasattr(report, "wasxfail"):
            self.tests["xfailed"].add(report.nodeid)
        elif report.outcome != "passed" or report.when == "call":
            self.tests[report.outcome].add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Hand the deselections to the main process, or write the file."""
        self.tests["passed"] -= self.tests["failed"]
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["deselected"] = sorted(self.tests["deselected"])
        else:
            content = {outcome: sorted(tests) for outcome, tests in self.tests.items()}
            Path(os.environ["TENFOLD_ACCOUNT"]).write_text(json.dumps(content))


class Workers:
    """Takes over what the workers of xdist deselected."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def pytest_testnodedown(self, node: Any) -> None:
        """Take over one worker's deselections."""
        self.account.tests["deselected"] |= set(getattr(node, "workeroutput", {}).get("deselected", ()))


def pytest_configure(config: Any) -> None:
    """Register the collector, and the one for workers where xdist is installed."""
    if "TENFOLD_ACCOUNT" in os.environ:
        account = Account(config)
        config.pluginmanager.register(account)
        if config.pluginmanager.hasplugin("xdist"):
            config.pluginmanager.register(Workers(account))
