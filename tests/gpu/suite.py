"""The part that runs the GPU tests: a row as each ends."""

from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).with_name("test_gpu.py")


class _Told:
    """A plugin of pytest."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self.tell = tell

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The outcome of a test, or what kept it from being run."""
        if report.when != "call" and report.passed:
            return
        why = (
            f": {report.longrepr[2].removeprefix('Skipped: ')}" if isinstance(report.longrepr, tuple) else ""
        )
        name = report.nodeid.split("::")[-1]
        self.tell(f"`{name}`", f"{report.outcome}{why}", f"{report.duration:.1f}")


def suite(tell: Callable[..., None]) -> None:
    """A row a test. AssertionError where one failed; its traceback stands in the output."""
    code = pytest.main(["-q", "-p", "no:cacheprovider", str(TESTS)], plugins=[_Told(tell)])
    assert code == pytest.ExitCode.OK, (
        f"pytest ended with {code.name if isinstance(code, pytest.ExitCode) else code}"
    )
