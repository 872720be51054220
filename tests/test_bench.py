"""The benchmarks that want what a test run lacks (a GPU, quiet cores): their programs run, and compare equal things."""

import json
import math
import sys
import time

import pytest
import torch

from notebook_tools import ROOT
from shardlab.pictures.svg import one_thread

BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench  # noqa: E402
import contestants  # noqa: E402
import layer_ways  # noqa: E402
import mlp_ways  # noqa: E402
import on_cuda  # noqa: E402
import peers  # noqa: E402
import transformer_layer  # noqa: E402
from timing import race, rounds, summary  # noqa: E402

TRY = ["--device", "cpu", "--size", "128", "--rounds", "2", "--sample", "0"]


# the page


def test_the_page_says_what_was_measured():
    page, results = bench.README.read_text(), json.loads(bench.RESULTS.read_text())
    assert bench.fill(page, bench.table(results)) == page, "python benchmarks/bench.py table"


def test_what_stands_around_the_tables_stays():
    assert bench.fill(f"a\n{bench.BEGIN}\nold\n{bench.END}\nb", "new") == f"a\n{bench.BEGIN}\nnew\n{bench.END}\nb"


# timing


def test_ways_take_turns_there_and_back():
    order = []
    samples = rounds({"a": 1.0, "b": 2.0}, 3, lambda way: order.append(way) or way)
    assert order == [1, 2, 2, 1, 1, 2]
    assert samples == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_a_summary_is_of_ratios_in_the_same_round():
    found = summary({"slow": [2.0, 20.0, 6.0], "base": [1.0, 10.0, 2.0]}, base="base")
    assert found["slow"] == {"us": 6e6, "us_spread": [4e6, 13e6], "ratio": 2.0, "ratio_spread": [2.0, 2.5]}
    assert found["base"]["ratio"] == 1.0


def test_a_race_takes_about_as_long_as_it_may_and_its_base_is_the_last():
    calls = {"slow": 0, "base": 0}

    def way(name, seconds):
        calls[name] += 1
        time.sleep(seconds)

    found = race({"slow": lambda: way("slow", 0.004), "base": lambda: way("base", 0.002)}, seconds=0.05)
    assert calls["slow"] == calls["base"] >= 4 + 5
    assert found["base"]["ratio"] == 1 and found["slow"]["us"] >= 4000


# a transformer layer


def test_a_layer_is_measured_beside_its_twin():
    rows = transformer_layer.transformer_layer(widths=[64], shards=[2, 3], seconds=0)
    assert [(row["shards"], row["what"]) for row in rows] == [
        (n, what) for n in (2, 3) for what in ("forward", "forward and backward")
    ]
    assert all(row["shards_us"] > 0 and row["ratio"] > 0 for row in rows)
    told = list(transformer_layer.lines(rows))
    assert len(told) == 2 and all("on 2 shards" in line and "on 3 shards" in line for line in told)


# on CUDA


@one_thread()
def test_the_program_for_cuda_runs(tmp_path):
    out = tmp_path / "results.json"
    on_cuda.main([*TRY, "--out", str(out)])
    results = json.loads(out.read_text())
    assert list(results) == ["splits", "cliff", "sums", "errors", "overhead"]
    for part in results.values():
        assert part["at"]["size"] == 128 and part["at"]["rounds"] == 2 and part["rows"]
        for row in part["rows"]:
            numbers = [value for key, value in row.items() if key in ("us", "ratio", "error")]
            assert numbers and all(math.isfinite(number) and number > 0 for number in numbers), row
    by = {(row["shards"], row["way"]) for row in results["splits"]["rows"]}
    assert {k for k, _ in by} == {1, 2, 4, 8, 16, 32}
    assert {way for k, way in by if k == 32} >= {"whole", "column, Shards", "column, by hand", "row and sum, Shards"}
    errors = {
        (row["dtype"], row["shards"]): row["error"] for row in results["errors"]["rows"] if row["way"] != "addmm_"
    }
    assert errors["bf16", 64] > 2 * errors["bf16", 1]  # of 64 partial products, each is rounded
    assert errors["bf16", 8] > 4 * errors["fp16", 8] > 4 * errors["fp32", 8]  # 8, 11 and 24 bits


def test_a_part_leaves_the_others(tmp_path):
    out = tmp_path / "results.json"
    out.write_text('{"splits": "as it was"}')
    on_cuda.main([*TRY, "--out", str(out), "sums"])
    results = json.loads(out.read_text())
    assert results["splits"] == "as it was" and {row["shards"] for row in results["sums"]["rows"]} == {2, 4, 8, 16, 32}


REFUSED = {
    "where would it go?": (["--device", "cpu"], "name another file with --out"),
    "no such part": ([*TRY, "--out", "x.json", "sum"], "no part sum: there are splits, cliff"),
}
if not torch.cuda.is_available():
    REFUSED["no card"] = ([], "sees no CUDA device")


@pytest.mark.parametrize(("arguments", "told"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_refused(arguments, told, capsys):
    with pytest.raises(SystemExit) as left:
        on_cuda.main(arguments)
    assert left.value.code == 2 and told in capsys.readouterr().err


# peers


@pytest.mark.ranks
def test_peers_run_and_are_equal_on_ranks():
    """Each rank checks every contestant's values and gradients against the dense twin before it takes a time."""
    mlp, layer = [6, 8], [1, 3, 32]
    launches = [("gloo", 2, "mlp", [mlp]), ("fake", 4, "mlp", [mlp]), ("gloo", 2, "layer", [layer])]
    results = peers.peers(launches, rounds=2, seconds=0)
    assert set(results["left out"]) <= {"fairscale"}
    assert [(row["ranks"], row["model"], row["what"]) for row in results["rows"]] == [
        (ranks, model, what) for _, ranks, model, _ in launches for what in ("forward", "forward and backward")
    ]
    for row in results["rows"]:
        ways = {"mlp": mlp_ways, "layer": layer_ways}[row["model"]].CONTESTANTS
        assert set(row["times"]) == set(ways) - set(results["left out"])
        assert all(time["us"] > 0 for time in row["times"].values()) and row["times"]["floor"]["ratio"] == 1
    lines = peers.table(results).splitlines()
    assert len([line for line in lines if line.startswith("| | shardlab |")]) == 2
    assert len([line for line in lines if line.startswith(("| 6×8,", "| 1×3×32,"))]) == 6


def test_a_wrong_contestant_is_found():
    y = torch.ones(4, 3)
    contestants.close("y", y + 1e-6, y)
    for wrong in (y * 1.01, y * math.nan, y[:2], y.T):
        with pytest.raises(AssertionError, match="^y "):
            contestants.close("y", wrong, y)
    with pytest.raises(AssertionError):
        contestants.close("y", torch.ones(0), torch.ones(0))


@pytest.mark.ranks
def test_a_rank_that_fails_ends_them_all(capfd):
    with pytest.raises(RuntimeError, match=r"rank \d .*stopped"):
        peers.launch("gloo", 2, {"model": "mlp", "sizes": None, "rounds": 1, "seconds": 0})
    assert "Error" in capfd.readouterr().err
