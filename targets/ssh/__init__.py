"""Linux boards over SSH: `ssh://pi@raspberrypi.local`. The device runs an agent, which is this package's own host code."""
