"""Linux boards over SSH: `ssh://pi@raspberrypi.local`. The device runs an agent: the host's own code in one file."""
