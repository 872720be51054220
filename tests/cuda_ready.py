"""Say what `make cuda` runs on, or what it lacks."""

import sys
from importlib.util import find_spec

import torch

NEEDED = ["cloudpickle", "hypothesis", "ipykernel", "ipywidgets", "matplotlib", "nbclient", "nbval", "psutil"]
NEEDED += ["pytest", "pytest_timeout"]


def main():
    if missing := [name.replace("_", "-") for name in NEEDED if find_spec(name) is None]:
        sys.exit(f"{sys.executable} has torch {torch.__version__}, but not: {' '.join(missing)}")
    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} of {sys.executable} sees no CUDA device")
    if torch.get_float32_matmul_precision() != "highest":  # TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, as in NVIDIA's images
        sys.exit(
            "float32 products are rounded to tf32 here, and the lessons are about float32: unset "
            "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
        )
    print(f"torch {torch.__version__} on {torch.cuda.device_count()} × {torch.cuda.get_device_name()}")


if __name__ == "__main__":
    main()
