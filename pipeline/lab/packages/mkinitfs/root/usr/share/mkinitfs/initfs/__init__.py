# SPDX-License-Identifier: Apache-2.0
"""The initramfs maker: features -> files and modules with all they need -> one cpio archive."""
