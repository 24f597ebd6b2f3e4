"""bjoern has no command of its own: `python run_bjoern.py MODULE:APP HOST PORT`."""

import importlib
import sys

import bjoern

module, name = sys.argv[1].split(":")
bjoern.run(getattr(importlib.import_module(module), name), sys.argv[2], int(sys.argv[3]))
