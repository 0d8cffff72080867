# SPDX-License-Identifier: Apache-2.0
"""The shared cache: artifacts of the store in an OCI registry, so that what one machine built others need not build.

In the order of its flow: `registry` speaks the distribution protocol, `record` says what is signed, `shared` pushes
and pulls, `commands` reads the variables. Nobody trusts the registry: a signed record vouches for every byte.
"""
