# SPDX-License-Identifier: Apache-2.0
"""Which packages a world means: the answer that apk itself gives, and why there is none."""
