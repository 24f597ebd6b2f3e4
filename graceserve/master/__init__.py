"""The master: owns the listening sockets, the decisions and the children. Standard library only; never blocks."""
