"""What consumes increments: accumulated odometry, published forms, consistency checks."""
