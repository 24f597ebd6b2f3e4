"""graceserve under the programs that start it: systemd's own tools and protocols."""
