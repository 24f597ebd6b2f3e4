"""Real processes, real sockets, real nginx: what only the kernel can prove. See `server.py` for the harness."""
