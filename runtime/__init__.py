# SPDX-License-Identifier: Apache-2.0
"""`tower`, the command of a TowerOS thin client.

`tower.cli.main` reads the command line and imports a command's module when it is called; nothing here
imports the image factory.
"""
