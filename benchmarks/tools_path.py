"""Importing this lets a benchmark import the scripts of ``tools/``."""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / 'tools'))
