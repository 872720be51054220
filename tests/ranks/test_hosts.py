"""The README's command for several hosts, over two of them: network namespaces, each with a name, joined by a cable."""

import os
import re
import shutil
import subprocess
import sys

import pytest

import forked
from notebook_tools import ROOT
from shardlab import Mesh
from test_main import notebook

PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"  # where `ip` is, also for those who are not root
LIMIT = 90  # seconds for all of it, then the namespaces end with everything in them
pytestmark = [pytest.mark.ranks, pytest.mark.timeout(2 * LIMIT)]

# The outer namespaces are host0. All processes in them, and so the namespaces, end with the first one (--kill-child).
ENTER = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
CABLE = """
set -e
hostname host0
unshare --net --uts sleep 1000 & host1=$!
until [ "$(readlink /proc/$host1/ns/uts)" != "$(readlink /proc/$$/ns/uts)" ]; do sleep 0.02; done
on_host1() { nsenter --target $host1 --net --uts "$@"; }
on_host1 hostname host1
ip link add veth0 type veth peer name veth1 netns $host1
ip addr add 10.77.0.1/24 dev veth0
ip link set veth0 up
ip link set lo up
on_host1 ip addr add 10.77.0.2/24 dev veth1
on_host1 ip link set veth1 up
on_host1 ip link set lo up
"""
BOTH = """
mount --bind hosts /etc/hosts
on_host1 "$@" >out1 2>err1 & there=$!
here=0; "$@" >out0 2>err0 || here=$?
there_too=0; wait $there || there_too=$?
echo $here $there_too
"""

CUT = """
mount --bind hosts /etc/hosts
on_host1 "$@" >out1 2>err1 & there=$!
"$@" >out0 2>err0 &
until [ -e ready2 ] && [ -e ready3 ]; do sleep 0.1; done
ip link set veth0 down
there_too=0; wait $there || there_too=$?
echo $there_too
"""  # host0 ends with the script


def command(*forks):
    """The README's, run by this Python; with `forked.__file__`, torchrun's ranks are forks of it."""
    said = re.search(r"^\.venv/bin/torchrun (--nnodes 2 .*) (notebooks/\S+)$", (ROOT / "README.md").read_text(), re.M)
    return [sys.executable, *forks, "-m", "torch.distributed.run", *said[1].split()], str(ROOT / said[2])


def between_namespaces(script, folder, *args):
    """Run a script on host0, joined to host1; (exit status, stdout, stderr). Nothing outlives it."""
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    environment = {k: v for k, v in os.environ.items() if k not in ("SHARDLAB_DEVICES", "GLOO_SOCKET_IFNAME")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(folder), "PATH": PATH}
    run = subprocess.Popen(
        [ENTER[0], *rights, *ENTER[1:], "bash", "-c", CABLE + script, "bash", *args],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = run.communicate(timeout=LIMIT)
    finally:
        run.kill()
        run.wait()
    return run.returncode, out, err


@pytest.fixture
def hosts(tmp_path):
    for tool in ("ip", "unshare", "nsenter"):
        if not shutil.which(tool, path=PATH):
            pytest.skip(f"no {tool!r} here (Debian has it in iproute2 and util-linux)")
    status, _, err = between_namespaces("", tmp_path)
    if status:
        pytest.skip(f"no right to make network namespaces here: {err.strip()}")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n10.77.0.1 host0\n10.77.0.2 host1\n")

    def on_both(*args):
        """Say the same on both; (exit status, stdout, stderr) of each."""
        status, out, err = between_namespaces(BOTH, tmp_path, *args)
        assert status == 0, err
        told = [[(tmp_path / f"{kind}{host}").read_text() for kind in ("out", "err")] for host in (0, 1)]
        return [(int(status), *said) for status, said in zip(out.split(), told, strict=True)]

    return on_both


WHERE = """
import os
import socket

import psutil
import torch

from shardlab import Mesh

mesh = Mesh()
network = os.stat("/proc/self/ns/net").st_ino
networks = mesh.all_gather(mesh.replicate(torch.tensor([network])), dim=0).shards[0].tolist()
print("networks", *networks)
"""
CROSSED = """
address = {"host0": "10.77.0.1", "host1": "10.77.0.2"}
other = address.pop("host1" if socket.gethostname() == "host0" else "host0")
peers = [c.raddr.ip for c in psutil.Process().net_connections("tcp") if c.raddr]
assert peers.count(other) >= 2, peers  # gloo's connections to both ranks over there
assert psutil.net_io_counters(pernic=True)[f"veth{mesh.ranks[0] // 2}"].bytes_sent > 10_000
"""


def test_a_notebook_runs_over_two_hosts(hosts, tmp_path):
    launch, lesson = command()
    (here, out, err), (there, out1, err1) = hosts(*launch, notebook(tmp_path, WHERE, CROSSED), lesson)
    assert (here, there) == (0, 0), err + err1
    networks = re.search(r"^networks (.*)$", out, re.M)[1].split()
    assert networks[0] == networks[1] != networks[2] == networks[3], "two ranks in each of two namespaces"
    assert str(os.stat("/proc/self/ns/net").st_ino) not in networks
    assert out.endswith("cells on 4 ranks\n") and lesson in out.splitlines()[-1]
    assert out1 == "", "rank 0 alone prints, and is on host0"


def test_the_rank_at_fault_is_named_on_both_hosts(hosts, tmp_path):
    launch, _ = command(forked.__file__)
    path = notebook(
        tmp_path,
        "import torch\nfrom shardlab import Mesh\n\nmesh = Mesh()",
        "assert mesh.ranks != [3], 'as it should'",
        "mesh.all_reduce(mesh.replicate(torch.ones(3)))",
    )
    for status, out, err in hosts(*launch, path):
        assert status == 1 and out == "" and "as it should" in err
        assert [line for line in err.splitlines() if line.startswith("FAILED")] == [
            f"FAILED on rank 3 of 4: {path}, cell 1"
        ]


def test_a_host_that_loses_the_others_ends(hosts, tmp_path):
    """The cable is cut while its ranks compute: nobody tells them, or torchrun."""
    launch, _ = command(forked.__file__)
    path = notebook(
        tmp_path,
        "import time\n\nfrom shardlab import Mesh\nfrom shardlab.ranks import fates\n\nfates.LOST = 3",
        "open(f'ready{Mesh().ranks[0]}', 'w').close()\ntime.sleep(600)",
    )
    status, out, err = between_namespaces(CUT, tmp_path, *launch, path)
    assert status == 0, err
    told = (tmp_path / "err1").read_text()
    assert out.strip() not in ("", "0") and "passed" not in (tmp_path / "out1").read_text()
    for rank in (2, 3):
        assert f"FAILED on rank {rank} of 4: lost the others (no answer from host0 for 3 s" in told


@pytest.mark.parametrize("address", ["127.0.1.1", None])
def test_a_host_whose_own_name_leads_nowhere_is_told_so(monkeypatch, address):
    """As on Debian, where a host's own name means 127.0.1.1: without this, gloo waits for its limit."""

    def lookup(name):
        if address is None:
            raise OSError(f"no such name: {name}")
        return address

    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("SHARDLAB_DEVICES", "cpu")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr("socket.gethostbyname", lookup)
    with pytest.raises(RuntimeError, match="own name, .*, means loopback.* set GLOO_SOCKET_IFNAME"):
        Mesh()
