"""Does the node keep up? Latency, losses and memory at 30 Hz 640x480 and 400 Hz IMU on two cores.

    python benchmarks/node.py [--seconds 60] [--artifact FOLDER] [--cores 0 1]

This process plays a synthetic drive to a real node process, which alone is pinned to the cores,
and times each image from its stamp to the arrival of its odometry. Needs rclpy. Where there is no
artifact, given or packaged, an untrained network of its size stands in: the work is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from threading import Event, Thread
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu

from bayes_vio.conventions import GRAVITY_M_S2, NS_PER_S
from bayes_vio.ros.messages import time_of
from bayes_vio.ros.recorder import Recorder
from bayes_vio.ros.serving import make_executor

WIDTH, HEIGHT, FOCAL_PX = 640, 480, 370.0
CAMERA_HZ, IMU_HZ = 30, 400
WARM_UP_S = 2.0
ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "node.json"
TARGET_P99_S = 0.040
# Read by Fast DDS in this process and in the node's, by its names in ROS 2 up to Jazzy and since.
DDS_PROFILE = ROOT / "config" / "fastdds.xml"
DDS_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
for name in DDS_VARIABLES:
    os.environ.setdefault(name, str(DDS_PROFILE))


def scenes() -> list[np.ndarray]:
    """Return two seconds of images of a textured world that passes by and comes round again."""
    noise = np.random.default_rng(0).normal(size=(HEIGHT, WIDTH))
    smooth = cv2.GaussianBlur(np.tile(noise, 3), (0, 0), 3.0)[:, WIDTH : 2 * WIDTH]
    texture = np.clip(120 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return [np.roll(texture, -4 * k, axis=1) for k in range(2 * CAMERA_HZ)]


class Sensors:
    """Publish camera, IMU and calibration at their rates, paced by one clock."""

    def __init__(self, node: Node, compressed: bool) -> None:
        kind = CompressedImage if compressed else Image
        topic = "image/compressed" if compressed else "image"
        self._imu = node.create_publisher(Imu, "imu", QoSProfile(depth=1000))
        self._image = node.create_publisher(kind, topic, QoSProfile(depth=10))
        self._info = node.create_publisher(CameraInfo, "camera_info", QoSProfile(depth=10))
        make = jpeg_message if compressed else image_message
        self._images = [make(scene) for scene in scenes()]
        self.image_stamps_ns: list[int] = []
        self.imu_sent = 0
        self.latest_s = 0.0

    def connected(self) -> bool:
        return min(p.get_subscription_count() for p in (self._imu, self._image, self._info)) > 0

    def play(self, seconds: float) -> None:
        """Publish for so many seconds; stamps are the times at which messages are due."""
        start_ns = time.time_ns()
        imu_period, image_period = NS_PER_S // IMU_HZ, NS_PER_S // CAMERA_HZ
        next_image_ns = start_ns
        for k in range(int(seconds * IMU_HZ)):
            stamp_ns = start_ns + k * imu_period
            while (early_ns := stamp_ns - time.time_ns()) > 0:
                time.sleep(early_ns / NS_PER_S)
            self.latest_s = max(self.latest_s, -early_ns / NS_PER_S)
            self._publish_imu(stamp_ns, k)
            if stamp_ns >= next_image_ns:
                self._publish_image(next_image_ns)
                next_image_ns += image_period

    def _publish_imu(self, stamp_ns: int, index: int) -> None:
        message = Imu()
        message.header.stamp, message.header.frame_id = time_of(stamp_ns), "imu_link"
        message.linear_acceleration.x = 0.5 if index % 2 else -0.5
        message.linear_acceleration.z = GRAVITY_M_S2
        message.angular_velocity.z = 0.1
        self._imu.publish(message)
        self.imu_sent += 1

    def _publish_image(self, stamp_ns: int) -> None:
        index = len(self.image_stamps_ns)
        message = self._images[index % len(self._images)]
        message.header.stamp = time_of(stamp_ns)
        self._image.publish(message)
        if index % CAMERA_HZ == 0:
            self._info.publish(camera_info_message())
        self.image_stamps_ns.append(stamp_ns)


def image_message(pixels: np.ndarray) -> Image:
    message = Image(height=HEIGHT, width=WIDTH, encoding="mono8", step=WIDTH)
    message.header.frame_id = "camera_optical"
    message.data = pixels.tobytes()
    return message


def jpeg_message(pixels: np.ndarray) -> CompressedImage:
    message = CompressedImage(format="jpeg")
    message.header.frame_id = "camera_optical"
    message.data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    return message


def camera_info_message() -> CameraInfo:
    message = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.frame_id = "camera_optical"
    message.k = [FOCAL_PX, 0.0, WIDTH / 2, 0.0, FOCAL_PX, HEIGHT / 2, 0.0, 0.0, 1.0]
    return message


def start_node(artifact: Path, cores: list[int], transport: str) -> subprocess.Popen[bytes]:
    """Start the node on the given cores, with no wait for the time offset."""
    command = [sys.executable, "-m", "bayes_vio.ros", "--ros-args"]
    for text in (
        f"artifact:={artifact}",
        "device:=cpu",
        "time_offset_s:=0.0",
        f"image_transport:={transport}",
    ):
        command += ["-p", text]
    return subprocess.Popen(
        command,
        start_new_session=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def stop_node(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the node; kill it where it does not end."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise SystemExit("the node did not end within 10 s of an interrupt") from None


def memory_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used (proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(seconds: float, artifact: Path, cores: list[int], transport: str) -> dict[str, Any]:
    """Play the drive to a node and return the figures."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    process = start_node(artifact, cores, transport)
    rclpy.init()
    node = Node("benchmark")
    sensors, recorder = Sensors(node, transport == "compressed"), Recorder(node)
    closing = Event()
    thread = Thread(target=spin, args=(node, closing), daemon=True)
    thread.start()
    try:
        wait_until(lambda: sensors.connected() and node.count_publishers("odometry") > 0, 60.0)
        time.sleep(0.5)
        sensors.play(WARM_UP_S)
        start = (memory_mib(process.pid), cpu_s(process.pid), time.monotonic())
        first = len(sensors.image_stamps_ns)
        sensors.play(seconds)
        elapsed_s = time.monotonic() - start[2]
        end = (memory_mib(process.pid), cpu_s(process.pid))
        time.sleep(1.5)  # the last odometry, and one more line of diagnostics
        figures = {
            "memory_start_mib": round(start[0], 1),
            "memory_end_mib": round(end[0], 1),
            "cpu_cores_used": round((end[1] - start[1]) / elapsed_s, 3),
        }
        return losses(sensors, recorder, first) | figures
    finally:
        closing.set()
        thread.join(5.0)
        stop_node(process)
        rclpy.shutdown()


def spin(node: Node, closing: Event) -> None:
    executor = make_executor()
    executor.add_node(node)
    while not closing.is_set():
        executor.spin_once(timeout_sec=0.1)


def wait_until(condition: Any, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit("the node did not come up in time; its log is above")
        time.sleep(0.05)


def losses(sensors: Sensors, recorder: Recorder, first: int) -> dict[str, Any]:
    """Compare what was sent with what came out, and time it."""
    arrays = recorder.arrays()
    sent = np.array(sensors.image_stamps_ns[first:])
    stamps, arrivals = arrays["odometry_stamp_ns"], arrays["odometry_arrival_ns"]
    used = np.isin(stamps, sent)
    latency_s = (arrivals[used] - stamps[used]) / NS_PER_S
    values = json.loads(str(arrays["diagnostics_json"][-1]))["values"]
    imu_received = int(values["imu count"]) + int(
        values.get("dropped, waiting_for_calibration", 0)
    )
    return {
        "frames_sent": len(sent),
        "frames_used": int(used.sum()),
        "frames_lost": int(len(sent) - used.sum()),
        "images_received": int(values["image count"]),
        "imu_sent": sensors.imu_sent,
        "imu_received": min(imu_received, sensors.imu_sent),
        "imu_lost": max(0, sensors.imu_sent - imu_received),
        "latency_mean_s": round(float(latency_s.mean()), 5),
        "latency_p50_s": round(float(np.quantile(latency_s, 0.5)), 5),
        "latency_p99_s": round(float(np.quantile(latency_s, 0.99)), 5),
        "latency_max_s": round(float(latency_s.max()), 5),
        "publisher_latest_s": round(sensors.latest_s, 5),
        "dropped": {k: int(v) for k, v in values.items() if k.startswith("dropped, ")},
    }


def stand_in_artifact(folder: Path) -> Path:
    """Write an untrained artifact with a network of the default size."""
    from bayes_vio.models.motion import MotionModelSettings

    sys.path.insert(0, str(ROOT))
    from tests.motion_cases import tiny_artifact

    path = folder / "untrained"
    tiny_artifact(settings=MotionModelSettings()).save(path)
    return path


def circumstances(trained: bool, cores: int, seconds: float) -> dict[str, Any]:
    """Return what a figure depends on beside the code: when, where, with what, for how long."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        },
        "artifact": "packaged or given" if trained else "untrained, default size",
        "cores_of_the_node": cores,
        "seconds": seconds,
        "dds_profile": Path(os.environ["FASTDDS_DEFAULT_PROFILES_FILE"]).name,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--artifact", type=Path, help="default: the packaged one")
    parser.add_argument(
        "--cores", type=int, nargs="+", default=sorted(os.sched_getaffinity(0))[:2]
    )
    parser.add_argument("--transport", choices=["raw", "compressed"], default="raw")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    from bayes_vio.artifact import default_artifact_path

    with tempfile.TemporaryDirectory() as folder:
        artifact = arguments.artifact or default_artifact_path()
        trained = artifact.is_dir()
        artifact = artifact if trained else stand_in_artifact(Path(folder))
        figures = measure(arguments.seconds, artifact, arguments.cores, arguments.transport)
    report = {
        **circumstances(trained, len(arguments.cores), arguments.seconds),
        "image": f"{WIDTH}x{HEIGHT} mono8, {arguments.transport}, {CAMERA_HZ} Hz",
        "imu_hz": IMU_HZ,
        "latency": "image stamp to arrival of odometry in another process; time offset 0",
        **figures,
        "target_p99_s": TARGET_P99_S,
        "met": figures["latency_p99_s"] <= TARGET_P99_S and not figures["frames_lost"],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    return 0 if report["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
