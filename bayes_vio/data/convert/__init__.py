"""Turn public data sets, and folders of images and tables, into bags: one file per layout."""

from enum import Enum


class Layout(str, Enum):
    """How a source folder is laid out."""

    KITTI_ODOMETRY = "kitti-odometry"
    KITTI_RAW = "kitti-raw"
    EUROC = "euroc"
    COMMA2K19 = "comma2k19"
    FOLDER = "folder"
