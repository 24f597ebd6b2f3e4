"""The decisions: which generation to start, promote, drain and kill, and when. Pure; runs in the master."""
