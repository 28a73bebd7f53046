"""Fix the order of vectors, the frames and the dtypes; the only home of index constants.

Frames (REP 103, REP 105): ``base`` x forward, y left, z up; a camera's optical frame has z
forward, x right, y down. ``T_a_b`` maps coordinates in ``b`` to coordinates in ``a``. Poses are
4x4 matrices.

6-vectors are linear then angular: (x, y, z, rotX, rotY, rotZ), in metres and radians.
``vec`` of a weight ``W`` [d_out, d_in] is row-major, so a layer's Kronecker block is ``G (x) A``.

Times: inside the package ``*_ns`` are integer nanoseconds since the epoch and ``*_s`` are seconds.
An image stamped ``t`` shows the instant at which the IMU sample stamped ``t + time_offset_s`` was
taken: a positive offset means that the IMU's stamps lag the camera's.
"""

import numpy as np

AXES = ("x", "y", "z", "rotX", "rotY", "rotZ")
AXIS_UNITS = ("m", "m", "m", "rad", "rad", "rad")
LINEAR = slice(0, 3)
ANGULAR = slice(3, 6)
X, Y, Z, ROT_X, ROT_Y, ROT_Z = range(6)

# One IMU sample is [specific force (m/s^2, gravity included), angular rate (rad/s)] in base axes.
SPECIFIC_FORCE = slice(0, 3)
ANGULAR_RATE = slice(3, 6)

GRAVITY_M_S2 = 9.80665
NS_PER_S = 1_000_000_000


# Axes of a camera's optical frame in base axes, for a camera that looks along base x.
R_BASE_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
