"""The core imports where there is no ROS 2: only ``bayes_vio.ros`` may need it."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Blocks ROS, imports every module of the core, and tells which it was.
IMPORT_ALL = """
import importlib, json, pkgutil, sys

class NoRos:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        prefixes, suffixes = ("rcl", "ros", "rmw", "tf2_", "launch", "ament_"), ("_msgs", "_srvs")
        if top != "rosbags" and (top.startswith(prefixes) or top.endswith(suffixes)):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, NoRos())
import bayes_vio
walked = pkgutil.walk_packages(bayes_vio.__path__, "bayes_vio.", onerror=lambda name: None)
names = [m.name for m in walked]
names = [n for n in names if not n.startswith("bayes_vio.ros") and n != "bayes_vio.__main__"]
for name in names:
    importlib.import_module(name)
try:
    importlib.import_module("bayes_vio.ros.estimator_node")
    blocked = False
except ModuleNotFoundError:
    blocked = True
print(json.dumps({"names": names, "blocked": blocked}))
"""


def test_every_module_of_the_core_imports_without_ros():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["blocked"], "the block does not block: bayes_vio.ros imported"
    package = ROOT / "bayes_vio"
    files = [f for f in package.rglob("*.py") if f.relative_to(package).parts[0] != "ros"]
    assert len(told["names"]) == len(files) - 2  # all but the package itself and __main__


def test_command_line_starts_without_torch():
    code = "import sys, bayes_vio.cli, bayes_vio.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, cwd=ROOT).returncode == 0
