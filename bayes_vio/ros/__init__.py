"""The ROS 2 edge: nodes, parameters, messages; the only importer of rclpy and of messages."""
