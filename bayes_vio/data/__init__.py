"""From recordings to motion samples: bags, clocks, views, flow, IMU windows."""
