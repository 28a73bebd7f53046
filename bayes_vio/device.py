"""Where networks run."""

import torch

# What ``choose_device`` can be asked for.
DEVICE_PATTERN = r"auto|cpu|cuda(:\d+)?"


def choose_device(name: str) -> torch.device:
    """Return the device asked for: "auto" is CUDA where there is one, else the CPU.

    Raises ValueError where a device is asked for by name and absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device '{name}' is not there, PyTorch sees {torch.cuda.device_count()} CUDA "
            f"devices; use auto or cpu"
        )
    return device
