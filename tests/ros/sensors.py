"""A process that publishes camera, IMU and calibration at steady rates, and says what it sent.

python -m tests.ros.sensors --seconds 20 [--ros-args -r __ns:=/car]
"""

from __future__ import annotations

import argparse
import json
import time

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, Image, Imu

from bayes_vio.conventions import GRAVITY_M_S2, NS_PER_S
from bayes_vio.ros.messages import time_of

WIDTH, HEIGHT = 640, 480
CAMERA_HZ, IMU_HZ = 30, 400
_SCENES = 40
_LISTENER_S = 60.0


def scenes() -> list[Image]:
    """Return images of a world that passes by at 4 pixels a frame and comes round again."""
    noise = np.random.default_rng(0).normal(size=(HEIGHT, _SCENES * 16))
    smooth = cv2.GaussianBlur(np.tile(noise, 2), (0, 0), 3.0)[:, : WIDTH + 4 * _SCENES]
    texture = np.clip(120 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    return [image_of(texture[:, 4 * k : 4 * k + WIDTH]) for k in range(_SCENES)]


def image_of(pixels: np.ndarray) -> Image:
    message = Image(height=HEIGHT, width=WIDTH, encoding="mono8", step=WIDTH)
    message.header.frame_id = "camera_optical"
    message.data = pixels.tobytes()
    return message


def imu_of(index: int) -> Imu:
    message = Imu()
    message.header.frame_id = "imu_link"
    message.linear_acceleration.x = 0.5 if index % 2 else -0.5
    message.linear_acceleration.z = GRAVITY_M_S2
    message.angular_velocity.z = 0.1
    return message


def camera_info() -> CameraInfo:
    focal = WIDTH / 256 * 148.0
    message = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.frame_id = "camera_optical"
    message.k = [focal, 0.0, WIDTH / 2, 0.0, focal, HEIGHT / 2, 0.0, 0.0, 1.0]
    return message


def publish(node: Node, seconds: float) -> dict[str, int]:
    """Publish for so long, from when someone listens; return what was sent."""
    imu = node.create_publisher(Imu, "imu", QoSProfile(depth=1000))
    image = node.create_publisher(Image, "image", QoSProfile(depth=30))
    info = node.create_publisher(CameraInfo, "camera_info", QoSProfile(depth=10))
    images = scenes()
    deadline_s = time.monotonic() + _LISTENER_S
    while min(p.get_subscription_count() for p in (imu, image, info)) == 0:
        if time.monotonic() > deadline_s:
            raise SystemExit(f"nobody listened to the sensors within {_LISTENER_S:g} s")
        time.sleep(0.02)
    time.sleep(0.3)  # the listener may know of us later than we of it
    info.publish(camera_info())
    time.sleep(0.5)
    start_ns, n_images, latest_ns = time.time_ns(), 0, 0
    for k in range(int(seconds * IMU_HZ)):
        stamp_ns = start_ns + k * NS_PER_S // IMU_HZ
        while (early_ns := stamp_ns - time.time_ns()) > 0:
            time.sleep(early_ns / NS_PER_S)
        latest_ns = max(latest_ns, -early_ns)
        sample = imu_of(k)
        sample.header.stamp = time_of(stamp_ns)
        imu.publish(sample)
        if stamp_ns >= start_ns + n_images * NS_PER_S // CAMERA_HZ:
            frame = images[n_images % _SCENES]
            frame.header.stamp = time_of(start_ns + n_images * NS_PER_S // CAMERA_HZ)
            image.publish(frame)
            n_images += 1
    time.sleep(0.5)  # what was published last is still under way
    sent = {"imu": int(seconds * IMU_HZ), "images": n_images, "start_ns": start_ns}
    return sent | {"latest_ns": latest_ns}


def main() -> None:
    rclpy.init()
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    seconds = parser.parse_args(remove_ros_args()[1:]).seconds
    node = Node("sensors")
    print(json.dumps(publish(node, seconds)), flush=True)
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
