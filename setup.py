"""Build the package for pip and, as ``ament_python``, for colcon."""

import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = "bayes_vio"
ROOT = Path(__file__).resolve().parent
VERSION = re.search(
    r'__version__ = "([^"]+)"', (ROOT / NAME / "__init__.py").read_text(encoding="utf-8")
)[1]

# ROS 2 (Kilted) is published as wheels for one kind of machine; others bring their own ROS 2.
ROS_WHEELS = (
    "sys_platform == 'linux' and platform_machine == 'x86_64' "
    "and implementation_name == 'cpython' and python_version < '3.15'"
)
ROS = [
    "ros-rclpy>=9.1,<10",
    "ros-rmw-fastrtps-cpp>=9.3,<10",
    "ros-builtin-interfaces>=2.3,<3",
    "ros-diagnostic-msgs>=5.5,<6",
    "ros-geometry-msgs>=5.5,<6",
    "ros-lifecycle-msgs>=2.3,<3",
    "ros-nav-msgs>=5.5,<6",
    "ros-rcl-interfaces>=2.3,<3",
    "ros-sensor-msgs>=5.5,<6",
    "ros-std-msgs>=5.5,<6",
    "ros-std-srvs>=5.5,<6",
]


def files(folder, *patterns):
    """Return the files of one folder, as paths relative to this file: setuptools' rule."""
    found = {path for pattern in patterns for path in (ROOT / folder).glob(pattern)}
    return sorted(str(path.relative_to(ROOT)) for path in found if path.is_file())


setup(
    name=NAME,
    version=VERSION,
    description="Visual-inertial odometry with an honest covariance: a motion network and its "
    "Laplace posterior, fitted from recordings and run as a ROS 2 node",
    license="Apache-2.0",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering",
    ],
    keywords="robotics ROS odometry IMU camera uncertainty Laplace KFAC",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["assets/**/*", "py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", files("launch", "*.launch.py")),
        (f"share/{NAME}/config", files("config", "*.*")),
        (f"share/{NAME}/config/sros2", files("config/sros2", "*.xml")),
        # pip and colcon put scripts in bin; ros2 run and launch look for executables here.
        (f"lib/{NAME}", files("scripts", "*")),
    ],
    install_requires=[
        "numpy>=1.26",
        "scipy>=1.11",
        "torch>=2.6",
        "safetensors>=0.4",
        "rosbags>=0.11,<0.12",
        "lz4>=4.3",
        "opencv-python>=4.8",
        "matplotlib>=3.8",
        "typer>=0.15",
        "rich>=13",
        "ruamel.yaml>=0.18",
    ],
    extras_require={
        "ros": [f"{requirement} ; {ROS_WHEELS}" for requirement in ROS],
        "backpack": ["backpack-for-pytorch>=1.7"],
        # What tests marked `oracle` compare with.
        "oracle": [
            "curvlinops-for-pytorch>=3.0.1,<4",
            "laplace-torch>=0.3,<0.4",
            "backpack-for-pytorch>=1.7",
        ],
        # What benchmarks/peers.py measures beside us; `make peers` installs them, see there.
        "peers": [
            "curvlinops-for-pytorch==3.0.1",
            "laplace-torch==0.3",
            "backpack-for-pytorch==1.7.1",
        ],
        "search": ["optuna>=4"],
        "smoother": ["gtsam>=4.3,<4.4 ; python_version >= '3.11'"],
        "view": ["rerun-sdk>=0.41,<0.42 ; python_version >= '3.11'"],
        "classification": ["scikit-learn>=1.6"],
        "test": [
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "packaging>=23",
            "scikit-learn>=1.6",
            "ruff>=0.15",
            "pyright[nodejs]>=1.1.400",
            "setuptools>=68",
        ],
    },
    entry_points={"console_scripts": ["bayes-vio = bayes_vio.entry:command_line"]},
    zip_safe=False,
)
