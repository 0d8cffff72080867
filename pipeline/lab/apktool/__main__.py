# SPDX-License-Identifier: Apache-2.0
"""`python -m pipeline.lab.apktool` is the same program as the installed `apk`."""

from __future__ import annotations

import sys

from pipeline.lab.apktool.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv))
