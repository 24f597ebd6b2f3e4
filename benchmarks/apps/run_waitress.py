"""Waitress without its warning at each request that all threads are busy: the warnings cost a quarter of its CPU.

python run_waitress.py MODULE:APP HOST PORT [KEY=VALUE ...]
"""

import importlib
import logging
import sys

import waitress

logging.getLogger("waitress.queue").setLevel(logging.ERROR)
module, name = sys.argv[1].split(":")
settings = dict(word.split("=", 1) for word in sys.argv[4:])
waitress.serve(getattr(importlib.import_module(module), name), host=sys.argv[2], port=sys.argv[3], **settings)
