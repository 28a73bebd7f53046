"""Import once what warns on import, in other people's code that rclpy imports late."""

import contextlib
import warnings

with warnings.catch_warnings(), contextlib.suppress(ImportError):
    warnings.simplefilter("ignore")
    import rosidl_generator_py  # noqa: F401
