"""The files that say what to install agree with each other."""

import re

import yaml
from packaging.requirements import Requirement

from notebook_tools import ROOT

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
IN_CONDA = {"torch": "pytorch"}  # where conda-forge has another name


def test_conda_environment_equals_pyproject():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    wanted = [Requirement(text) for text in PROJECT["dependencies"]]
    expected = {f"{IN_CONDA.get(need.name, need.name)}{need.specifier}" for need in wanted}
    expected |= {f"python{PROJECT['requires-python']}", "pip"}
    assert conda["name"] == PROJECT["name"] and conda["channels"] == ["conda-forge"]
    assert {text for text in conda["dependencies"] if isinstance(text, str)} == expected
    assert [entry for entry in conda["dependencies"] if not isinstance(entry, str)] == [{"pip": ["-e ."]}]


def pinned():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return [Requirement(line) for line in lines]


def test_every_requirement_is_pinned():
    pins = pinned()
    assert all(re.fullmatch(r"==[^*]+", str(pin.specifier)) for pin in pins)
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]:
        need = Requirement(text)
        versions = [str(pin.specifier)[2:] for pin in pins if pin.name == need.name]
        assert versions, f"{need.name} is not in constraints.txt: make lock"
        assert all(need.specifier.contains(version) for version in versions), f"{need.name} {versions}: make lock"


def test_what_builds_the_package_is_pinned():
    """pip builds in an environment of its own, which knows no constraints: the versions stand twice, and are equal."""
    wanted = [Requirement(text) for text in PYPROJECT["build-system"]["requires"]]
    assert PYPROJECT["build-system"]["build-backend"].partition(".")[0] in {need.name for need in wanted}
    assert {str(need) for need in wanted} <= {str(pin) for pin in pinned()}
