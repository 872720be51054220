"""What all tests share: measured times are shown at the end of a run, and never decide whether it is red; and what
must not be left when it ends."""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import hypothesis
import psutil
import pytest

import forked

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one is slow, not wrong
hypothesis.settings.load_profile("any machine")


def pytest_configure(config):
    if config.pluginmanager.has_plugin("nbval"):
        pytest.register_assert_rewrite("same_outputs")
        import same_outputs

        forked.kernels()
        config.pluginmanager.register(same_outputs.SameOutputs())


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.getreports("passed"):
        for what, value in report.user_properties:
            if report.when == "call":
                terminalreporter.write_line(f"measured: {what}: {value}  ({report.nodeid})")


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(tmp_path_factory):
    """The suite ends without a fork server, a rank, a listener of its own, or a folder of a pool."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("session"))
    yield
    if forks := sys.modules.get("shardlab.ranks.forks"):
        forks.stop()
    mine, left = psutil.Process(), Path(tempfile.tempdir)
    tempfile.tempdir = before
    servers = [child for child in mine.children(recursive=True) if "forks.serve" in command(child)]
    assert not psutil.wait_procs(servers, timeout=10)[1]  # the kernel of the last notebook has just ended
    assert not [one for one in mine.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    assert not list(left.glob("shardlab-*"))


@pytest.fixture(scope="module")
def pool():
    """Two ranks on the CPU; of each file its own, since some files end more than their own."""
    pytest.importorskip("cloudpickle")  # where torch is the system's
    from shardlab.ranks import ranks

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARDLAB_DEVICES", "cpu")
        with ranks(2) as pool:
            yield pool


def command(process):
    """What a process was started with; nothing, if it has just ended."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
