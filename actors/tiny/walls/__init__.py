"""The world with walls: up to three objects that may turn, differ in what no caption tells, and bounce off a wall."""
