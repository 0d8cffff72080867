# SPDX-License-Identifier: Apache-2.0
"""What `abuild-sign` runs for each file; the code is laid here by the package apk-tools."""

import sys

sys.dont_write_bytecode = True  # such files no package would own
sys.path.insert(0, __file__.rpartition("/")[0])

from pipeline.lab.apktool.sign import main  # noqa: E402

sys.exit(main(sys.argv))
