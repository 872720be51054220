"""Say what `make cuda` runs on, or what it lacks."""

import sys
from importlib.util import find_spec

import torch

NEEDED = ["hypothesis", "ipykernel", "ipywidgets", "matplotlib", "nbclient", "nbval", "pytest", "pytest_timeout"]


def main():
    if missing := [name.replace("_", "-") for name in NEEDED if find_spec(name) is None]:
        sys.exit(f"{sys.executable} has torch {torch.__version__}, but not: {' '.join(missing)}")
    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} of {sys.executable} sees no CUDA device")
    print(f"torch {torch.__version__} on {torch.cuda.device_count()} × {torch.cuda.get_device_name()}")


if __name__ == "__main__":
    main()
