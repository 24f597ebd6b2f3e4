"""`graceserve torture`: clients of every kind against a running server while it is reloaded, and what became of them.

target, options, answers, tally, report: pure. clients, reloads, run: shell, in a process of its own.
"""
